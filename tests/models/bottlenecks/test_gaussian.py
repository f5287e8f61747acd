"""Gaussian bottlenecks of vectors and of maps."""

import torch
from einops import rearrange
from torch.distributions import Normal, kl_divergence

from ae import (
    Gaussian,
)
from ae.models.bottlenecks import SpatialGaussian
from ae.models.priors import GaussianMixture, prior_of
from tests.models.bottlenecks import SHAPE


def test_gaussian_rate_is_kl_to_prior() -> None:
    """Compare with the closed form (Kingma & Welling 2014, appendix B) and a Monte Carlo estimate."""
    gaussian, features = Gaussian(SHAPE, 5), torch.randn(3, *SHAPE)
    mean, log_variance = (features.flatten(1) @ gaussian.project_in.weight.T + gaussian.project_in.bias).chunk(2, 1)
    code = gaussian(features)
    expected = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    torch.testing.assert_close(code.rate, expected)
    torch.testing.assert_close(code.mean, mean)
    torch.manual_seed(0)
    z = mean + (0.5 * log_variance).exp() * torch.randn(200_000, 3, 5)
    sampled = Normal(mean, (0.5 * log_variance).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(sampled.sum(2).mean(0), expected, rtol=0.02, atol=0.02)
    assert code.posterior is not None
    torch.testing.assert_close(kl_divergence(code.posterior, Normal(torch.zeros(3, 5), 1.0)).sum(1), expected)


def test_gaussian_samples_in_evaluation() -> None:
    gaussian, features = Gaussian(SHAPE, 5).eval(), torch.randn(1, *SHAPE)
    torch.manual_seed(0)
    code = gaussian(features.expand(20_000, *SHAPE))
    torch.testing.assert_close(code.z.mean(0), code.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(code.z.std(0), code.posterior.stddev[0], atol=0.05, rtol=0)
    assert prior_of(gaussian).sample(7).shape == (7, 5)


def test_gaussian_is_finite_for_extreme_features() -> None:
    gaussian = Gaussian(SHAPE, 5)
    code = gaussian(torch.full((2, *SHAPE), 1e4))
    assert code.z.isfinite().all()
    assert code.rate.isfinite().all()


def test_gaussian_rate_of_a_prior_without_closed_form_is_a_monte_carlo_estimate_of_the_kl() -> None:
    """A mixture of one component N(0, I) is the standard normal, without its closed form."""
    torch.manual_seed(0)
    gaussian = Gaussian(SHAPE, 5)
    features = torch.randn(1, *SHAPE)
    expected = gaussian(features).rate.item()
    mixture = GaussianMixture(5, components=1)
    torch.nn.init.zeros_(mixture.means)
    gaussian.prior = mixture
    rates = gaussian(features.expand(40_000, *SHAPE)).rate
    error = rates.std().item() / 200
    assert abs(rates.mean().item() - expected) < 4 * error
    rates.mean().backward()
    assert mixture.means.grad is not None
    assert mixture.means.grad.abs().sum() > 0


def test_spatial_gaussian_equals_gaussian_at_each_position() -> None:
    torch.manual_seed(0)
    spatial = SpatialGaussian(SHAPE, 2)
    features = torch.randn(3, *SHAPE)
    code = spatial(features)
    flat = Gaussian((6,), 2)
    flat.project_in.weight.data = spatial.project_in.weight.data[:, :, 0, 0]
    flat.project_in.bias.data = spatial.project_in.bias.data  # type: ignore[union-attr]
    position = flat(rearrange(features, "b c h w -> (b h w) c"))
    torch.testing.assert_close(rearrange(code.mean, "b c h w -> (b h w) c"), position.mean)
    torch.testing.assert_close(code.rate, position.rate.reshape(3, -1).sum(1))
    assert prior_of(spatial).sample(4).shape == (4, 2, 3, 4)
    assert spatial.expand(code.z).shape == features.shape
