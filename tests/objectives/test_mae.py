"""Masked autoencoder: what the encoder sees, what is predicted, and what counts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ae import MAE, Autoencoder, Batch, ConvEncoder, InputError, Recipe, Splits, ViTDecoder, ViTEncoder, evaluate, fit
from ae.models.transformer import patches_of
from ae.utils.global_batch import global_batch
from tests.helpers.resumed import check_resume


def model_and_objective(channels: int = 1, **options: Any) -> tuple[ViTEncoder, MAE]:
    torch.manual_seed(0)
    encoder = ViTEncoder(channels, patch=4, width=16, depth=2, heads=2)
    return encoder, MAE(ViTDecoder(channels, 16, patch=4, width=8, depth=1, heads=2), **options)


@pytest.mark.parametrize(("hidden", "visible"), [(0.75, 12), (0.5, 24), (0.0, 48), (1.0, 1), (0.99, 1), (0.01, 48)])
def test_fraction_of_patches_is_hidden_and_one_at_least_on_either_side(hidden: float, visible: int) -> None:
    encoder, objective = model_and_objective(hidden=hidden)
    assert objective._visible_count(49) == visible
    loss = objective(Autoencoder(encoder), Batch(torch.rand(2, 1, 28, 28), {}), 0)
    assert loss.total.isfinite()


def test_loss_depends_on_visible_patches_by_the_encoder_only_and_on_hidden_ones_as_targets_only() -> None:
    """The gradient by the image, without the targets, is 0 on hidden patches."""
    encoder, objective = model_and_objective()
    images = torch.rand(3, 1, 28, 28, requires_grad=True)
    order = objective.order(encoder, images)
    assert torch.equal(order.sort(1).values, torch.arange(49).expand(3, 49))
    objective._predicted(encoder, images, order).square().sum().backward()
    assert images.grad is not None
    reached = patches_of(images.grad, 4).abs().sum(2) > 0
    for row, visible in zip(reached, order[:, :12], strict=True):
        assert row.nonzero().flatten().tolist() == sorted(visible.tolist())


@pytest.mark.parametrize("normalised", [False, True])
def test_loss_equals_a_loop_over_hidden_patches(normalised: bool) -> None:
    encoder, objective = model_and_objective(3, normalised=normalised)
    images = torch.rand(2, 3, 9, 8)  # the last row of patches has one row of pixels
    torch.manual_seed(5)
    loss = objective(Autoencoder(encoder), Batch(images, {}), 0)
    torch.manual_seed(5)
    order = objective.order(encoder, images)
    padded = torch.cat([images, images[:, :, -1:].expand(2, 3, 3, 8)], 2)
    predicted = objective.decoder.fill(encoder.tokens(images, order[:, :2]), order[:, :2], 3, 2)
    errors = []
    for b in range(2):
        for patch in order[b, 2:].tolist():
            row, column = 4 * (patch // 2), 4 * (patch % 2)
            target = (padded[b, :, row : row + 4, column : column + 4] - 0.5) / 0.5
            if normalised:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((predicted[b, :, row : row + 4, column : column + 4] - target).square().mean())
    torch.testing.assert_close(loss.total, torch.stack(errors).mean())
    expected = loss.total if normalised else 0.25 * loss.total  # pixels in [0, 1], not in [-1, 1]
    torch.testing.assert_close(loss.terms["hidden_mse"], expected.detach())


@pytest.mark.parametrize("normalised", [False, True])
def test_restored_keeps_visible_patches_and_shows_the_predictions(normalised: bool) -> None:
    encoder, objective = model_and_objective(normalised=normalised)
    images = torch.rand(2, 1, 10, 12)
    order = objective.order(encoder, images)
    seen, restored = objective.restored(encoder, images, order)
    assert seen.shape == restored.shape == images.shape
    visible = torch.zeros(2, 9, dtype=torch.bool).scatter(1, order[:, :2], True)
    mask = visible.reshape(2, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :10]
    assert torch.equal(seen, images * mask)
    torch.testing.assert_close(restored[mask], images[mask])
    predicted = objective._predicted(encoder, images, order).reshape(2, 1, 3, 3, 4, 4)
    if normalised:
        patches = patches_of(torch.cat([images, images[:, :, -1:].expand(2, 1, 2, 12)], 2), 4)
        predicted = predicted * patches.std(2).reshape(2, 1, 3, 3, 1, 1) + patches.mean(2).reshape(2, 1, 3, 3, 1, 1)
    else:
        predicted = predicted * 0.5 + 0.5
    pixels = predicted.transpose(3, 4).reshape(2, 1, 12, 12)[:, :, :10].clamp(0, 1)
    torch.testing.assert_close(restored[~mask], pixels[~mask], atol=1e-4, rtol=1e-4)


def test_mae_learns_to_predict_hidden_patches(digits: Splits) -> None:
    encoder, objective = model_and_objective()
    model = Autoencoder(encoder)
    assert digits.validation is not None
    before = evaluate(model, digits.validation, objective)
    assert before == evaluate(model, digits.validation, objective)
    results = fit(model, objective, digits, Recipe(steps=60, batch_size=64, optimizer="adamw", lr=0.01))
    assert results["val/hidden_mse"] < 0.5 * before["hidden_mse"]


def test_mae_resumed_equals_an_uninterrupted_training(digits: Splits, tmp_path: Path) -> None:
    def make() -> tuple[Autoencoder, MAE]:
        encoder, objective = model_and_objective()
        return Autoencoder(encoder), objective

    check_resume(make, digits, tmp_path)


@pytest.mark.slow
def test_mae_trains_compiled_in_bf16_and_in_parts(digits: Splits) -> None:
    torch.compiler.reset()
    encoder, objective = model_and_objective()
    assert digits.validation is not None
    before = evaluate(Autoencoder(encoder), digits.validation, objective)["hidden_mse"]
    for options in ({"compile": True}, {"precision": "bf16"}, {"micro_batch": 20}, {"checkpointing": True}):
        encoder, objective = model_and_objective()
        recipe = Recipe(steps=30, batch_size=64, optimizer="adamw", lr=0.01, **options)
        assert fit(Autoencoder(encoder), objective, digits, recipe)["val/hidden_mse"] < 0.7 * before


def test_mae_of_an_empty_shard_is_0_with_a_gradient_of_0() -> None:
    encoder, objective = model_and_objective()
    with global_batch(3, part=0, parts=2):
        loss = objective(Autoencoder(encoder), Batch(torch.rand(0, 1, 28, 28), {}), 0)
    loss.total.backward()
    assert loss.total == 0
    assert all(not p.grad.any() for p in (*encoder.parameters(), *objective.parameters()) if p.grad is not None)


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (ConvEncoder(), ViTDecoder(), "MAE hides patches from a ViTEncoder, got ConvEncoder"),
        (ViTEncoder(), ViTDecoder(patch=2), r"fit the encoder: ViTDecoder\(in_channels=64, out_channels=1, patch=4\)"),
        (ViTEncoder(3), ViTDecoder(), r"ViTDecoder\(in_channels=64, out_channels=3, patch=4\)"),
        (ViTEncoder(width=32), ViTDecoder(), r"ViTDecoder\(in_channels=32, out_channels=1, patch=4\)"),
    ],
)
def test_mae_refuses_parts_that_do_not_fit(encoder: Any, decoder: ViTDecoder, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MAE(decoder)(Autoencoder(encoder), Batch(torch.rand(2, encoder.in_channels, 28, 28), {}), 0)
