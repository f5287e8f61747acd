"""Priors over latents: densities against torch.distributions and by integration, samples against their density."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from ae.models.priors import GaussianMixture, Prior, StandardNormal, UniformSphere


def mixture(latent: int = 2) -> GaussianMixture:
    torch.manual_seed(0)
    prior = GaussianMixture(latent, components=3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.log_std.copy_(torch.randn(3, latent) * 0.3 - 0.5)
    return prior


PRIORS: dict[str, Any] = {"normal": StandardNormal((2,)), "mixture": mixture(), "sphere": UniformSphere(2)}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_follows_the_contract(name: str) -> None:
    prior = PRIORS[name]
    assert isinstance(prior, Prior)
    for count in (0, 1, 5):
        z = prior.sample(count)
        assert z.shape == (count, 2)
        assert prior.log_prob(z).shape == (count,)


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_prior_integrates_to_one(name: str) -> None:
    axis = torch.linspace(-9, 9, 721, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = PRIORS[name].double().log_prob(grid).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=1e-4)
    PRIORS[name].float()


def test_uniform_sphere_integrates_to_one_over_its_area() -> None:
    area = {1: 2.0, 2: 2 * math.pi, 3: 4 * math.pi, 4: 2 * math.pi**2}
    for latent, size in area.items():
        log_prob = UniformSphere(latent).log_prob(torch.eye(latent)[:1])
        assert log_prob.exp().item() * size == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_samples_agree_with_the_density(name: str) -> None:
    """The probability of half-planes by samples and by integration of the density."""
    torch.manual_seed(1)
    prior = PRIORS[name]
    z = prior.sample(200_000)
    axis = torch.linspace(-9, 9, 721)
    grid = torch.cartesian_prod(axis, axis)
    mass = prior.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.6, -0.8])):
        for threshold in (-1.0, 0.3, 1.0):
            expected = mass[grid @ direction > threshold].sum().item()
            found = (z @ direction > threshold).float().mean().item()
            assert found == pytest.approx(expected, abs=0.008)  # 5 standard errors, and the grid's edge


def test_mixture_equals_torch_distributions() -> None:
    prior = mixture(3)
    z = torch.randn(7, 3)
    each = Independent(Normal(prior.means, prior.log_std.exp()), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), each).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_standard_normal_equals_torch_distributions_on_maps() -> None:
    prior, z = StandardNormal((2, 3, 4)), torch.randn(5, 2, 3, 4)
    expected = Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected)
    posterior = Normal(z, z.abs() + 0.1)
    expected = kl_divergence(posterior, Normal(torch.zeros_like(z), torch.ones_like(z)))
    torch.testing.assert_close(prior.kl(posterior), expected)


def test_log_prob_is_float32_for_bfloat16_codes() -> None:
    for prior in PRIORS.values():
        assert prior.log_prob(prior.sample(3).bfloat16()).dtype == torch.float32
