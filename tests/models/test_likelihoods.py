"""Likelihoods, against torch.distributions and brute force."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

from ae import InputError
from ae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
    SquaredError,
)

ALL: dict[str, Any] = {
    "mse": SquaredError(),
    "bernoulli": BernoulliLikelihood(),
    "gaussian": GaussianLikelihood(0.3),
    "gaussian-learned": GaussianLikelihood(0.3, learned=True),
    "discretized-logistic": DiscretizedLogisticLikelihood(),
    "categorical": CategoricalLikelihood(levels=16),
}


def drawn(likelihood: Any, batch: int = 3, levels: int = 256) -> tuple[Tensor, Tensor]:
    """Parameters, and images of the likelihood's levels."""
    torch.manual_seed(0)
    levels = getattr(likelihood, "levels", levels)
    images = torch.randint(0, levels, (batch, 2, 5, 4)) / (levels - 1)
    return torch.randn(batch, likelihood.channels(2), 5, 4, requires_grad=True), images


@pytest.mark.parametrize("name", ALL)
def test_likelihood_follows_the_contract(name: str) -> None:
    likelihood = ALL[name]
    params, images = drawn(likelihood)
    assert isinstance(likelihood, Likelihood)
    assert isinstance(likelihood, nn.Module)
    mean = likelihood.mean(params)
    assert mean.shape == images.shape
    assert mean.min() >= 0
    assert mean.max() <= 1
    nll = likelihood.nll(params, images)
    assert nll.shape == (3,)
    (slope,) = torch.autograd.grad(nll.sum(), params)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_nll_of_a_mask_leaves_out_the_other_pixels(name: str) -> None:
    likelihood = ALL[name]
    params, images = drawn(likelihood)
    mask = torch.rand(3, 1, 5, 4) < 0.5
    changed = torch.where(mask, images, 1 - images)
    torch.testing.assert_close(likelihood.nll(params, changed, mask), likelihood.nll(params, images, mask))
    whole = torch.ones_like(mask)
    torch.testing.assert_close(likelihood.nll(params, images, whole), likelihood.nll(params, images))


@pytest.mark.parametrize("name", ALL)
def test_nll_is_float32_for_bfloat16_params(name: str) -> None:
    likelihood = ALL[name]
    params, images = drawn(likelihood)
    assert likelihood.nll(params.detach().bfloat16(), images).dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_nll_rejects_params_of_another_shape(name: str, unhooked: None) -> None:
    likelihood = ALL[name]
    params, images = drawn(likelihood)
    with pytest.raises(InputError):
        likelihood.nll(params[..., :3], images)


def test_bernoulli_equals_torch_distributions() -> None:
    params, images = drawn(ALL["bernoulli"])
    binary = images.round()
    expected = -Bernoulli(logits=params).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(ALL["bernoulli"].nll(params, binary), expected)


@pytest.mark.parametrize("name", ["gaussian", "gaussian-learned"])
def test_gaussian_equals_torch_distributions(name: str) -> None:
    params, images = drawn(ALL[name])
    expected = -Normal(params.sigmoid(), 0.3).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(ALL[name].nll(params, images), expected)


def test_learned_gaussian_has_its_optimum_at_the_root_mean_squared_error() -> None:
    likelihood = GaussianLikelihood(1.0, learned=True)
    params, images = drawn(likelihood)
    with torch.no_grad():
        likelihood.log_std.fill_((params.sigmoid() - images).square().mean().sqrt().log())
    (slope,) = torch.autograd.grad(likelihood.nll(params, images).mean(), likelihood.log_std)
    assert slope.abs() < 1e-4


@pytest.mark.parametrize(("location", "log_scale"), [(0.0, 0.0), (0.3, -3.0), (-1.2, -7.0), (0.99, 2.0), (0.1, 12.0)])
def test_discretized_logistic_sums_to_one(location: float, log_scale: float) -> None:
    likelihood = DiscretizedLogisticLikelihood()
    images = torch.arange(256.0, dtype=torch.float64)[:, None, None, None] / 255
    params = torch.tensor([location, log_scale], dtype=torch.float64)[None, :, None, None].expand(256, -1, 1, 1)
    assert (-likelihood.nll(params, images)).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_discretized_logistic_equals_the_difference_of_the_distribution_function() -> None:
    likelihood = DiscretizedLogisticLikelihood()
    params, images = drawn(likelihood)
    params = 0.5 * params.detach().double()
    location, scale = params[:, :2], params[:, 2:].exp()
    value = images.double() * 2 - 1
    upper = torch.where(images > 254.5 / 255, 1.0, ((value + 1 / 255 - location) / scale).sigmoid())
    lower = torch.where(images < 0.5 / 255, 0.0, ((value - 1 / 255 - location) / scale).sigmoid())
    expected = -(upper - lower).log().flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nll(params, images.double()), expected)


@pytest.mark.parametrize("log_scale", [-50.0, -7.0, 0.0, 30.0, 80.0])
@pytest.mark.parametrize("location", [-1000.0, 0.0, 1000.0])
def test_discretized_logistic_has_finite_gradients_at_extremes(location: float, log_scale: float) -> None:
    params = torch.tensor([location, log_scale])[None, :, None, None].expand(3, -1, 1, 1).clone().requires_grad_()
    nll = DiscretizedLogisticLikelihood().nll(params, torch.tensor([0.0, 0.5, 1.0])[:, None, None, None])
    assert nll.isfinite().all()
    (slope,) = torch.autograd.grad(nll.sum(), params)
    assert slope.isfinite().all()


def test_categorical_equals_torch_distributions() -> None:
    likelihood = CategoricalLikelihood(levels=16)
    params, images = drawn(likelihood)
    logits = params.unflatten(1, (2, 16)).movedim(2, -1)
    levels = (images * 15).round().long()
    expected = -Categorical(logits=logits).log_prob(levels).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nll(params, images), expected)
    mean = (logits.softmax(-1) * torch.linspace(0, 1, 16)).sum(-1)
    torch.testing.assert_close(likelihood.mean(params), mean)


def test_params_per_channel_are_checked() -> None:
    with pytest.raises(InputError, match="two parameters per channel, got 3"):
        DiscretizedLogisticLikelihood().mean(torch.zeros(1, 3, 2, 2))
    with pytest.raises(InputError, match="16 logits per channel, got 15"):
        CategoricalLikelihood(16).mean(torch.zeros(1, 15, 2, 2))


def test_learned_gaussian_starts_at_std() -> None:
    assert GaussianLikelihood(0.5, learned=True).log_std.item() == pytest.approx(math.log(0.5))
