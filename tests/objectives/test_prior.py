"""Training of a prior over code indices by the same loop as every other model."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ae import DivergedError, Images, Recipe, Splits, evaluate, fit
from ae.models.priors import PixelCNN
from ae.objectives import IndexLikelihood
from tests.helpers.resumed import check_resume

RECIPE = Recipe(batch_size=8, steps=4, optimizer="adamw", lr=0.01, log_every=5)


def stripes() -> Splits:
    """Images 2x3 of codes times 85; each code is its left neighbour plus one: log 4 nats per image."""
    first = torch.arange(4).repeat(20)[:, None, None]
    pixels = ((first + torch.arange(6).reshape(2, 3)) % 4 * 85).byte()[:, None]
    images = Images(pixels, torch.zeros(80).long(), ("a",))
    return Splits(images, images.select(slice(12)))


def as_codes(images: Tensor) -> Tensor:
    assert not torch.is_autocast_enabled("cpu")
    return (images[:, 0] * 3).round().long()


OBJECTIVE = IndexLikelihood(as_codes)


def trained(**options: Any) -> tuple[PixelCNN, dict[str, float]]:
    torch.manual_seed(1)
    prior = PixelCNN(4, channels=16, blocks=2)
    return prior, fit(prior, OBJECTIVE, stripes(), replace(RECIPE, **options))


def test_fit_trains_a_prior(capsys: pytest.CaptureFixture[str]) -> None:
    prior, results = trained(steps=100, evaluate_every=100)
    data = stripes()
    assert data.validation is not None
    with torch.no_grad():
        expected = prior.negative_log_likelihood(as_codes(data.validation.batch(slice(None)).images)).mean().item()
    assert evaluate(prior, data.validation, OBJECTIVE) == pytest.approx({"prior/nats": expected, "loss": expected})
    assert results["val/prior/nats"] == pytest.approx(expected)
    assert expected == pytest.approx(math.log(4), abs=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21  # every fifth step, and the validation
    assert lines[0].startswith("step 5/100")
    assert "loss" in lines[0]


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"ema": 0.5}, {"micro_batch": 4}])
def test_fit_of_a_prior_is_deterministic(options: dict[str, Any]) -> None:
    (first, _), (second, _) = trained(**options), trained(**options)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_fit_of_a_prior_in_parts_equals_the_whole_batch() -> None:
    (whole, _), (parts, _) = trained(), trained(micro_batch=3)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


def test_fit_of_a_prior_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def make() -> tuple[Any, Any]:
        torch.manual_seed(1)
        return PixelCNN(4, channels=16, blocks=2), OBJECTIVE

    check_resume(make, stripes(), tmp_path)


@pytest.mark.slow
def test_fit_of_a_prior_compiled_equals_eager() -> None:
    torch.compiler.reset()
    (eager, _), (compiled, _) = trained(), trained(compile=True)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_fit_of_a_prior_stops_at_a_non_finite_loss() -> None:
    with pytest.raises(DivergedError, match=r"became NaN or infinite at step \d+, learning rate 1e\+20"):
        trained(optimizer="sgd", lr=1e20, schedule="constant", steps=20)
