"""Probes, on codes with known answers."""

from pathlib import Path

import pytest
import torch

from ae import Autoencoder, Classifier, ConvEncoder, Dense, InputError, Run, RunConfig, Splits
from ae.evaluation.probes import Codes, clusters, codes_of, linear_probe, nearest_neighbours, neighbour_map, probe
from ae.utils.seeding import generator
from experiments import joint
from experiments.probe import beside


def blobs(count: int, spread: float, key: str) -> Codes:
    """Three Gaussian classes in 5 dimensions of very different scales."""
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 5, generator=generator(key))
    return Codes((torch.eye(5)[labels] * 10 + spread * noise) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1000.0]), labels)


def test_linear_probe_separates_linearly_separable_classes() -> None:
    train, validation, test = (blobs(count, 0.5, key) for count, key in ((90, "a"), (30, "b"), (60, "c")))
    assert linear_probe(train, validation, test) == 1.0
    noise = Codes(torch.randn(600, 5, generator=generator("noise")), torch.arange(600) % 3)
    assert linear_probe(train, validation, noise) == pytest.approx(1 / 3, abs=0.08)


def test_linear_probe_ignores_unlabelled_codes() -> None:
    train, test = blobs(90, 0.5, "a"), blobs(30, 0.5, "b")
    few = Codes(train.values, torch.where(torch.arange(90) < 12, train.labels, -1))
    assert linear_probe(few, test, test) == linear_probe(Codes(train.values[:12], train.labels[:12]), test, test)
    with pytest.raises(InputError, match="labels of two classes"):
        linear_probe(Codes(train.values, torch.zeros_like(train.labels)), test, test)


def test_nearest_neighbours_equals_brute_force() -> None:
    train, test = blobs(90, 8.0, "a"), blobs(60, 8.0, "b")
    near = torch.nn.functional.cosine_similarity(test.values[:, None], train.values[None], dim=2)
    votes = train.labels[near.topk(5).indices].mode().values
    ties = torch.stack([(train.labels[near.topk(5).indices] == c).sum(1) for c in range(3)]).topk(2, dim=0).values
    is_unique = ties[0] > ties[1]
    assert is_unique.sum() > 30
    accuracy = nearest_neighbours(train, Codes(test.values[is_unique], test.labels[is_unique]))
    assert accuracy == pytest.approx((votes == test.labels)[is_unique].float().mean().item())


def test_clusters_finds_separate_classes() -> None:
    assert clusters(blobs(90, 0.1, "a"), 3, seed=0) == pytest.approx((1.0, 1.0))
    noise = Codes(torch.randn(300, 5, generator=generator("noise")), torch.arange(300) % 3)
    nmi, ari = clusters(noise, 3, seed=0)
    assert nmi < 0.1
    assert abs(ari) < 0.1


def test_neighbour_map_keeps_neighbours_together() -> None:
    codes = blobs(60, 0.1, "a")
    codes = Codes(codes.values[:, :4], codes.labels)
    near = torch.cdist(neighbour_map(codes), neighbour_map(codes)).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(codes.labels[near], codes.labels)


def test_codes_of_returns_flattened_means_in_order(digits: Splits) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 8), norm=True))
    assert digits.test is not None
    codes = codes_of(model, digits.test(), batch_size=50)
    model.eval()
    expected = model.encode(digits.test().batch(slice(None)).images).mean.flatten(1)
    torch.testing.assert_close(codes.values, expected)
    assert torch.equal(codes.labels, digits.test().labels)


def test_probe_returns_every_metric(digits: Splits) -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), bottleneck=Dense((8, 7, 7), 6), heads={"digit": Classifier((6,))})
    assert digits.validation is not None
    assert digits.test is not None
    metrics = probe(model, digits.train, digits.validation, digits.test(), labels=(20,), repeats=2)
    assert {name: len(values) for name, values in metrics.items()} == {
        "linear/accuracy": 1,
        "knn/accuracy": 1,
        "linear/accuracy/20": 2,
        "kmeans/nmi": 2,
        "kmeans/ari": 2,
    }
    assert metrics["linear/accuracy"][0] > max(0.3, *metrics["linear/accuracy/20"])  # of random features of real digits


def test_beside_takes_project_and_group_of_the_run(tmp_path: Path) -> None:
    where = RunConfig(dir=tmp_path / "run", wandb="disabled", project="codes", group="seeds")
    with Run("joint", where, joint.Config(run=where)) as run:
        run.log({"train/loss": 1.0}, step=1, epoch=0.1)
    assert beside(RunConfig(project="mine"), tmp_path / "run") == RunConfig(project="mine", group="seeds")
