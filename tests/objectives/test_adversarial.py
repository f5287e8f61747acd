"""Perceptual distance and discriminator: against formulas and difference quotients, and what is trained when."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ae import (
    AdversarialConfig,
    Autoencoder,
    Batch,
    ConvEncoder,
    DeconvDecoder,
    InputError,
    Joint,
    PatchDiscriminator,
    PerceptualAdversarial,
    PerceptualDistance,
    Recipe,
    Splits,
    VectorQuantizer,
    fit,
)
from ae.evaluation.frechet import digit_encoder
from ae.evaluation.metrics import sharpness
from ae.objectives.adversarial import hinge, last_weight
from tests.helpers.resumed import check_resume
from tests.helpers.small import changed_tensors, copied_state

JOINT = Joint(classification=0.0)


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), VectorQuantizer(6, codebook_size=8))


def objective(**options: Any) -> PerceptualAdversarial:
    torch.manual_seed(1)
    config = AdversarialConfig(**{"start": 2, **options})
    return PerceptualAdversarial(PatchDiscriminator(1, 8), PerceptualDistance(digit_encoder()), JOINT, config)


RECIPE = Recipe(steps=4, batch_size=16, optimizer="adamw", lr=0.001, schedule="constant")


def test_adaptive_weight_is_a_ratio_of_difference_quotients() -> None:
    """Of the norms of the gradients by the decoder's last weight, in float64."""
    model = Autoencoder(ConvEncoder(1, (3,)), DeconvDecoder(1, (3,))).double()
    adversarial = objective(start=0).double()
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    weight = last_weight(model)
    assert weight.shape == (3, 1, 3, 3)

    def values() -> tuple[Tensor, Tensor]:
        fake = model(images).reconstruction
        assert adversarial.perceptual is not None
        total = 20 * (fake - images).square().mean() + adversarial.perceptual(fake, images).double().mean()
        return total, -adversarial.discriminator(fake).mean()

    squares = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for i in range(weight.numel()):
            differences = []
            for sign in (1, -1):
                weight.view(-1)[i] += sign * 1e-4
                differences.append(torch.stack(values()))
                weight.view(-1)[i] -= sign * 1e-4
            squares += ((differences[0] - differences[1]) / 2e-4).square()
    expected = (squares[0].sqrt() / (squares[1].sqrt() + 1e-4)).item()
    total, verdict = values()
    assert adversarial._adaptive_weight(total, verdict, model).item() == pytest.approx(expected, rel=1e-2)
    losses = dict(adversarial(model.train(), Batch(images, {}), 0))
    assert losses["autoencoder"].terms["adaptive_weight"].item() == pytest.approx(expected, rel=1e-2)


def test_losses_equal_their_formulas() -> None:
    model, adversarial = autoencoder(), objective(start=0, adaptive=False, perceptual=2.0, adversarial=0.5)
    batch = Batch(torch.rand(3, 1, 28, 28), {})
    losses = dict(adversarial(model.eval().train(), batch, 0))
    state = copied_state(model)
    model.eval()
    model.load_state_dict(state)
    output = model(batch.images)
    assert adversarial.perceptual is not None
    fake_logits, real_logits = (adversarial.discriminator(x) for x in (output.reconstruction, batch.images))
    expected = Joint(classification=0.0)(model, batch, 0).total
    expected = expected + 2 * adversarial.perceptual(output.reconstruction, batch.images).mean()
    torch.testing.assert_close(losses["autoencoder"].total, expected - 0.5 * fake_logits.mean(), atol=1e-3, rtol=1e-2)
    discriminator = 0.5 * ((1 - real_logits).clamp(min=0).mean() + (1 + fake_logits).clamp(min=0).mean())
    torch.testing.assert_close(losses["discriminator"].total, discriminator, atol=1e-3, rtol=1e-2)


def test_hinge_is_a_mean_over_patches() -> None:
    real, fake = torch.tensor([[[2.0, 0.0]], [[-1.0, 1.0]]]), torch.tensor([[[-2.0, 0.0]], [[1.0, 3.0]]])
    assert hinge(real, fake).tolist() == [0.5 * (0.5 + 0.5), 0.5 * (1.0 + 3.0)]
    assert hinge(real[:, 0, 0], fake[:, 0, 1]).tolist() == [0.5 * (0 + 1), 0.5 * (2 + 4)]


def test_discriminator_trains_before_it_counts(digits: Splits) -> None:
    """Until `start`, the autoencoder is trained as without a discriminator, which is trained; then it differs."""
    states = {}
    for name, options, steps in (
        ("without", {"adversarial": 0.0, "start": 1000}, 3),
        ("before", {"start": 3}, 3),
        ("after", {"start": 1}, 3),
    ):
        model, adversarial = autoencoder(), objective(**options)
        before = copied_state(adversarial.discriminator)
        fit(model, adversarial, digits, replace(RECIPE, steps=steps))
        states[name] = copied_state(model)
        assert changed_tensors(before, adversarial.discriminator)
    assert all(torch.equal(value, states["without"][key]) for key, value in states["before"].items())
    assert any(not torch.equal(value, states["without"][key]) for key, value in states["after"].items())


def test_perceptual_distance_equals_its_formula_and_is_trained_through_but_not_itself() -> None:
    distance = PerceptualDistance(ConvEncoder(1, (3, 5), norm=True))
    first, second = torch.rand(2, 1, 8, 8, requires_grad=True), torch.rand(2, 1, 8, 8, requires_grad=True)
    expected = torch.zeros(2)
    for ours, theirs in zip(distance.encoder.features(first), distance.encoder.features(second), strict=True):  # type: ignore[operator]
        for b in range(2):
            rows, columns = ours.shape[2:]
            for i in range(rows):
                for j in range(columns):
                    one, other = ours[b, :, i, j], theirs[b, :, i, j]
                    difference = one / one.norm().clamp(min=1e-10) - other / other.norm().clamp(min=1e-10)
                    expected[b] += difference.square().sum() / (rows * columns)
    actual = distance(first, second)
    torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    assert first.grad is not None
    assert second.grad is None
    assert all(not p.requires_grad for p in distance.parameters())
    assert not distance.encoder.training
    assert distance(first, first.detach()).abs().max() < 1e-6


def test_perceptual_distance_stays_as_it_is_in_training(digits: Splits) -> None:
    adversarial = objective()
    assert adversarial.perceptual is not None
    before = copied_state(adversarial.perceptual)
    fit(autoencoder(), adversarial, digits, RECIPE)
    assert not changed_tensors(before, adversarial.perceptual)


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (28, 28), (33, 65)])
def test_discriminator_takes_any_size(size: tuple[int, int]) -> None:
    logits = PatchDiscriminator(3, 8)(torch.rand(2, 3, *size))
    assert logits.shape == (2, size[0] // 4, size[1] // 4)


def test_logits_of_patches_depend_on_26_pixels_and_not_on_other_images() -> None:
    discriminator = PatchDiscriminator(1, 4)
    for module in discriminator.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[assignment, method-assign]  # it reads the whole image
    images = torch.rand(2, 1, 64, 64, requires_grad=True)
    discriminator(images)[0, 8, 8].backward()
    assert images.grad is not None
    reached = images.grad[0, 0].abs() > 0
    assert (int(reached.any(0).sum()), int(reached.any(1).sum())) == (26, 26)
    assert not images.grad[1].any()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"ema": 0.9}, {"micro_batch": 8}, {"grad_clip": 1.0}])
def test_objective_trains_in_bf16_by_averages_and_in_parts(options: dict[str, Any], digits: Splits) -> None:
    results = fit(autoencoder(), objective(), digits, replace(RECIPE, **options))
    assert results["val/mse"] < 1


def test_objective_resumed_equals_an_uninterrupted_training(digits: Splits, tmp_path: Path) -> None:
    check_resume(lambda: (autoencoder(), objective()), digits, tmp_path)


def test_sharpness_is_of_neighbouring_pixels() -> None:
    image = torch.tensor([[[[0.0, 1.0, 1.0], [0.5, 1.0, 0.0]]]])
    assert sharpness(image) == pytest.approx((1 + 0 + 0.5 + 1 + 0.5 + 0 + 1) / 7)
    sharp = torch.rand(2, 1, 16, 16)
    assert sharpness(F.avg_pool2d(sharp, 3, 1, 1)) < 0.5 * sharpness(sharp)


@pytest.mark.usefixtures("unhooked")
def test_what_is_missing_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs an encoder with features\(images\), got Linear"):
        PerceptualDistance(nn.Linear(3, 3))
    with pytest.raises(InputError, match="needs a PerceptualDistance: give it, or a weight of 0"):
        PerceptualAdversarial(PatchDiscriminator())
    with pytest.raises(InputError, match=r"AdversarialConfig\.start is not read where the verdict never counts"):
        AdversarialConfig(adversarial=0.0, start=5)
    with pytest.raises(InputError, match="has no decoder that is trained"):
        last_weight(Autoencoder(ConvEncoder()))
    with pytest.raises(InputError, match=r"images must be \[b 1 h w\], got \[2, 3, 8, 8\]"):
        PatchDiscriminator()(torch.rand(2, 3, 8, 8))
