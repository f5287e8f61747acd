"""Consistency: the teacher's terms, its augmentation and its moving average."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ae import (
    Augment,
    Autoencoder,
    Batch,
    Classifier,
    Consistency,
    ConvEncoder,
    InputError,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    TeacherConfig,
    evaluate,
    fit,
)
from ae.data.corruptions import PatchMask
from ae.models.ema import average_

STILL = TeacherConfig(align=0, weak=Augment(), strong=Augment(), hide=PatchMask(4, 0.0))  # nothing is augmented


def make_model(norm: bool = False) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(ConvEncoder(1, (4, 6), norm), heads={"digit": Classifier((6, 7, 7), 10, hidden=8)})


def logits_of(model: Autoencoder, images: Tensor) -> Tensor:
    return model(images).predictions["digit"].detach()


def test_consistency_pseudo_labels_equal_reference(batch: Batch) -> None:
    model = make_model()
    logits = logits_of(model, batch.images)
    unlabelled = batch.labels < 0
    median = logits.softmax(1).max(1).values.median().item()  # confident on half of the images
    sure = (logits.softmax(1).max(1).values >= median) & unlabelled
    assert 0 < sure.sum() < unlabelled.sum()
    nats = F.cross_entropy(logits, logits.argmax(1), reduction="none")
    loss = Consistency(model, 10, teaching=replace(STILL, confidence=median, weight=3.0))(model, batch, 0)
    expected = nats[sure].sum() / unlabelled.sum()
    torch.testing.assert_close(loss.terms["consistency"], expected)
    torch.testing.assert_close(loss.terms["taught"], sure.sum() / unlabelled.sum())
    torch.testing.assert_close(loss.total, loss.terms["cross_entropy"] + 3 * expected)
    assert loss.counts["consistency"] == 8
    ramped = Consistency(model, 10, teaching=replace(STILL, confidence=median, weight=3.0, ramp=10))(model, batch, 0)
    torch.testing.assert_close(ramped.total, ramped.terms["cross_entropy"] + 0.3 * expected)


def test_consistency_mean_teacher_equals_reference(batch: Batch) -> None:
    model = make_model()
    objective = Consistency(model, 10, teaching=replace(STILL, method="mean-teacher"))
    for parameter in objective.averaged.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    loss = objective(model, batch, 5)
    distance = logits_of(model, batch.images).softmax(1) - logits_of(objective.averaged, batch.images).softmax(1)
    expected = distance.square().sum(1)[batch.labels < 0].mean()
    torch.testing.assert_close(loss.terms["consistency"], expected)


def test_consistency_aligns_predictions_with_uniform_distribution(batch: Batch) -> None:
    model = make_model()
    objective = Consistency(model, 10, teaching=replace(STILL, align=4))
    probabilities = logits_of(model, batch.images).softmax(1)
    frequencies = 0.99 * torch.full((10,), 0.1) + 0.01 * probabilities[batch.labels < 0].mean(0)
    objective.averaged.load_state_dict(model.state_dict())
    taught = objective._teacher_probabilities(batch.images, batch.labels < 0, step=1)
    torch.testing.assert_close(objective.frequencies, frequencies)
    aligned = probabilities * (0.1 / frequencies) ** 0.75  # step 1 of 4: exponent 3/4
    torch.testing.assert_close(taught, aligned / aligned.sum(1, keepdim=True))
    torch.testing.assert_close(objective._teacher_probabilities(batch.images, batch.labels < 0, step=4), probabilities)


def test_consistency_strongly_augments_unlabelled_images_only(batch: Batch) -> None:
    """The teacher's term is on strongly augmented images; the weak augmentation is the identity here."""
    seen: list[Tensor] = []
    model = make_model()
    teaching = replace(STILL, strong=Augment(shift=3, rotate=30.0), hide=PatchMask(4, 0.3))
    objective = Consistency(model, 10, teaching=teaching)
    model.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    objective(model, batch, 0)
    (images,) = seen
    same = (images == batch.images).flatten(1).all(1)
    assert torch.equal(same, batch.labels >= 0)


def test_consistency_validates_saves_and_returns_the_average(digits: Splits, tmp_path: Path) -> None:
    few = replace(digits, train=digits.train.select(slice(96)), validation=digits.train.select(slice(96, 160)))
    model = make_model(norm=True)
    objective = Consistency(model, 10, Joint(reconstruction=0.0), STILL)
    seen: list[bool] = []
    objective.averaged.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        results = fit(model, objective, few, Recipe(steps=5, batch_size=32, lr=0.05, ema=0.8, evaluate_every=5), run)
    assert not any(seen)
    for name in ("best", "model"):
        saved = load_file(tmp_path / f"run/{name}.safetensors")
        assert all(torch.equal(value, saved[key]) for key, value in objective.averaged.state_dict().items()), name
    for name, value in objective.averaged.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert few.validation is not None
    assert results["val/cross_entropy"] == pytest.approx(evaluate(model, few.validation)["cross_entropy"])


def test_consistency_teacher_statistics_are_of_weakly_augmented_images(batch: Batch) -> None:
    """Strong augmentation masks all pixels, so that the model's statistics differ."""
    model = make_model(norm=True)
    teaching = replace(STILL, hide=PatchMask(4, 1.0))
    objective = Consistency(model, 10, teaching=teaching)
    objective.train()
    conv = objective.averaged.encoder.get_submodule("stages.0.conv")
    for step in range(60):
        objective(model, batch, step)
        average_(objective.averaged, model, step, decay=0.5)
    norms = [m.get_submodule("encoder.stages.0.norm").running_mean for m in (objective.averaged, model)]
    seen = conv((batch.images - 0.5) / 0.5).mean((0, 2, 3))
    ratio = (norms[0] - seen).abs().max() / (norms[1] - seen).abs().max()
    assert ratio < 0.2
    objective.eval()
    assert not any(module.training for module in objective.modules())


def test_consistency_without_weight_averages_statistics(batch: Batch) -> None:
    model = make_model(norm=True)
    objective = Consistency(model, 10, teaching=replace(STILL, weight=0.0))
    objective.train()
    for step in range(5):
        objective(model, batch, step)
        average_(objective.averaged, model, step, decay=0.99)
    kept, new = (m.state_dict()["encoder.stages.0.norm.running_mean"] for m in (objective.averaged, model))
    assert kept.any()
    assert (kept - new).abs().max() < new.abs().max()


def test_ema_is_first_a_mean_then_exponential() -> None:
    """Values 0, 1, 2, ...: first the mean, later an exponential average; integers are copied."""
    average, module = nn.BatchNorm1d(1).eval(), nn.BatchNorm1d(1)
    assert module.num_batches_tracked is not None
    assert average.num_batches_tracked is not None
    nn.init.constant_(average.weight, 99.0)
    expected = 0.0
    for step in range(30):
        nn.init.constant_(module.weight, float(step))
        module.num_batches_tracked.fill_(step)
        average_(average, module, step, decay=0.9)
        new = max(0.1, 1 / (step + 1))
        expected += new * (step - expected)
        if step < 9:
            assert average.weight.item() == pytest.approx(step / 2)
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.num_batches_tracked.item() == 29


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"weight": -1.0}, "TeacherConfig.weight must be 0 or more, got -1.0"),
        ({"confidence": 1.5}, "confidence must be from 0 to 1, got 1.5"),
    ],
)
def test_consistency_rejects_invalid_arguments(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TeacherConfig(**arguments)
