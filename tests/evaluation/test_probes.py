"""Probes, against data of which the answer is known."""

from pathlib import Path

import pytest
import torch

from ae import Autoencoder, Classifier, ConvEncoder, Dense, InputError, Run, RunConfig, Splits
from ae.evaluation.probes import Codes, clusters, codes_of, linear_probe, nearest_neighbours, neighbour_map, probe
from ae.utils.seeding import generator
from experiments import joint
from experiments.probe import beside


def blobs(count: int, spread: float, key: str) -> Codes:
    """Three classes around the corners of a triangle in 5 dimensions, of very different scales."""
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 5, generator=generator(key))
    return Codes((torch.eye(5)[labels] * 10 + spread * noise) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1000.0]), labels)


def test_what_is_linearly_separable_is_separated() -> None:
    train, validation, test = (blobs(count, 0.5, key) for count, key in ((90, "a"), (30, "b"), (60, "c")))
    assert linear_probe(train, validation, test) == 1.0
    noise = Codes(torch.randn(600, 5, generator=generator("noise")), torch.arange(600) % 3)
    assert linear_probe(train, validation, noise) == pytest.approx(1 / 3, abs=0.08)


def test_unlabelled_codes_are_left_out() -> None:
    train, test = blobs(90, 0.5, "a"), blobs(30, 0.5, "b")
    few = Codes(train.values, torch.where(torch.arange(90) < 12, train.labels, -1))
    assert linear_probe(few, test, test) == linear_probe(Codes(train.values[:12], train.labels[:12]), test, test)
    with pytest.raises(InputError, match="labels of two classes"):
        linear_probe(Codes(train.values, torch.zeros_like(train.labels)), test, test)


def test_neighbours_are_those_of_brute_force() -> None:
    train, test = blobs(90, 8.0, "a"), blobs(60, 8.0, "b")
    near = torch.nn.functional.cosine_similarity(test.values[:, None], train.values[None], dim=2)
    votes = train.labels[near.topk(5).indices].mode().values
    ties = torch.stack([(train.labels[near.topk(5).indices] == c).sum(1) for c in range(3)]).topk(2, dim=0).values
    sure = ties[0] > ties[1]
    assert sure.sum() > 30
    found = nearest_neighbours(train, Codes(test.values[sure], test.labels[sure]))
    assert found == pytest.approx((votes == test.labels)[sure].float().mean().item())


def test_clusters_of_separate_classes_are_found() -> None:
    assert clusters(blobs(90, 0.1, "a"), 3, seed=0) == pytest.approx((1.0, 1.0))
    noise = Codes(torch.randn(300, 5, generator=generator("noise")), torch.arange(300) % 3)
    nmi, ari = clusters(noise, 3, seed=0)
    assert nmi < 0.1
    assert abs(ari) < 0.1


def test_the_map_keeps_neighbours_together() -> None:
    codes = blobs(60, 0.1, "a")
    codes = Codes(codes.values[:, :4], codes.labels)
    near = torch.cdist(neighbour_map(codes), neighbour_map(codes)).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(codes.labels[near], codes.labels)


def test_codes_are_the_flattened_means_in_order(digits: Splits) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 8), norm=True))
    assert digits.test is not None
    codes = codes_of(model, digits.test(), batch_size=50)
    model.eval()
    expected = model.encode(digits.test().batch(slice(None)).images).mean.flatten(1)
    torch.testing.assert_close(codes.values, expected)
    assert torch.equal(codes.labels, digits.test().labels)


def test_every_probe_of_a_model(digits: Splits) -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), bottleneck=Dense((8, 7, 7), 6), heads={"digit": Classifier((6,))})
    assert digits.validation is not None
    assert digits.test is not None
    found = probe(model, digits.train, digits.validation, digits.test(), labels=(20,), repeats=2)
    assert {name: len(values) for name, values in found.items()} == {
        "linear/accuracy": 1,
        "knn/accuracy": 1,
        "linear/accuracy/20": 2,
        "kmeans/nmi": 2,
        "kmeans/ari": 2,
    }
    assert found["linear/accuracy"][0] > max(0.3, *found["linear/accuracy/20"])  # untrained features, on real digits


def test_a_probe_stands_beside_what_it_probes(tmp_path: Path) -> None:
    where = RunConfig(dir=tmp_path / "run", wandb="disabled", project="codes", group="seeds")
    with Run("joint", where, joint.Config(run=where)) as run:
        run.log({"train/loss": 1.0}, step=1, epoch=0.1)
    assert beside(RunConfig(project="mine"), tmp_path / "run") == RunConfig(project="mine", group="seeds")
