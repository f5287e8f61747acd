"""Levels of latent vectors: the ladder VAE's bottleneck and its prior."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ae import (
    IWAE,
    Autoencoder,
    BetaTC,
    ConvEncoder,
    DeconvDecoder,
    DenseDecoder,
    DenseEncoder,
    GaussianLikelihood,
    GaussianMixture,
    HierarchicalGaussian,
    Images,
    InputError,
    Joint,
    Recipe,
    Splits,
    TopDownGaussian,
    fit,
)
from ae.data import Batch
from ae.evaluation.sampling import log_likelihoods
from ae.models.bottlenecks.hierarchical import TopDownPosterior
from ae.utils.seeding import generator


def stages(batch: int = 3) -> list[Tensor]:
    return [torch.rand(batch, 1, 4, 4), torch.randn(batch, 2, 2, 3), torch.randn(batch, 7)]


def bottleneck(top: nn.Module | None = None) -> HierarchicalGaussian:
    return HierarchicalGaussian((12, 7), (5, 2, 2), TopDownGaussian((4, 3), hidden=6, top=top))


def test_prior_log_prob_equals_the_chain_of_conditionals() -> None:
    prior, z = TopDownGaussian((4, 3, 2), hidden=6), torch.randn(5, 9)
    levels = list(z.split((4, 3, 2), 1))
    expected = Normal(0.0, 1.0).log_prob(levels[2]).sum(1)
    for network, (below, above) in zip(prior.networks, pairwise(levels), strict=True):
        mean, log_variance = network(above).chunk(2, 1)
        expected = expected + Normal(mean, log_variance.exp().sqrt()).log_prob(below).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_prior_of_linear_networks_is_the_joint_gaussian_and_samples_it() -> None:
    """With z_1 = A z_2 + noise, the code is jointly Gaussian; density and samples agree with its covariance."""
    prior = linear_prior()
    matrix, variance = linear_parameters(prior)
    covariance = torch.cat(
        [
            torch.cat([matrix @ matrix.T + variance.diag(), matrix], 1),
            torch.cat([matrix.T, torch.eye(2)], 1),
        ]
    )
    joint = MultivariateNormal(torch.zeros(5), covariance)
    z = torch.randn(6, 5)
    torch.testing.assert_close(prior.log_prob(z), joint.log_prob(z))
    samples = prior.sample(200_000)
    torch.testing.assert_close(samples.mean(0), torch.zeros(5), atol=0.03, rtol=0)
    torch.testing.assert_close(samples.T.cov(), covariance, atol=0.05, rtol=0.02)


def linear_prior() -> TopDownGaussian:
    """Levels of 3 and 2 latents: the mean is linear, since ReLUs of x and -x give x; the variance is constant."""
    torch.manual_seed(0)
    prior = TopDownGaussian((3, 2), hidden=4)
    first, second = prior.networks[0].get_submodule("0"), prior.networks[0].get_submodule("2")
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    matrix = torch.randn(3, 2)
    with torch.no_grad():
        first.weight.copy_(torch.cat([torch.eye(2), -torch.eye(2)]))
        first.bias.zero_()
        second.weight.zero_()
        second.weight[:3] = torch.cat([matrix, -matrix], 1)
        second.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0, 0.5, 0.2]))
    return prior


def linear_parameters(prior: TopDownGaussian) -> tuple[Tensor, Tensor]:
    """A and the variances of z_1 = A z_2 + noise."""
    second = prior.networks[0].get_submodule("2")
    assert isinstance(second, nn.Linear)
    return second.weight[:3, :2].detach(), second.bias[3:].detach().exp()


def test_posterior_combines_estimate_and_prior_by_precision() -> None:
    """The product of the densities, on a grid of points: log q - log estimate - log p is constant."""
    code = bottleneck()(stages())
    posterior = code.posterior
    assert isinstance(posterior, TopDownPosterior)
    above = code.z[:, 4:]
    prior = posterior.hierarchy.given(0, above)
    levels = code.levels
    assert levels is not None
    assert isinstance(levels[0].posterior, Normal)
    points = torch.linspace(-3, 3, 7)[:, None, None].expand(7, 3, 4)
    rest = (
        levels[0].posterior.log_prob(points) - posterior.estimates[0].log_prob(points) - prior.log_prob(points)
    ).detach()
    torch.testing.assert_close(rest, rest[:1].expand(7, 3, 4), atol=1e-4, rtol=1e-4)


def test_code_concatenates_levels_and_its_rate_is_the_sum_of_theirs() -> None:
    torch.manual_seed(0)
    code = bottleneck()(stages())
    assert code.levels is not None
    posterior = code.posterior
    assert isinstance(posterior, TopDownPosterior)
    lower, top = code.levels
    assert isinstance(lower.posterior, Normal)
    assert isinstance(top.posterior, Normal)
    torch.testing.assert_close(code.z, torch.cat([lower.z, top.z], 1))
    expected = kl_divergence(top.posterior, Normal(torch.zeros(3, 3), 1.0)).sum(1)
    torch.testing.assert_close(top.rate, expected)
    torch.testing.assert_close(lower.rate, kl_divergence(lower.posterior, posterior.hierarchy.given(0, top.z)).sum(1))
    torch.testing.assert_close(code.rate, lower.rate + top.rate)
    assert code.latent_rates is not None
    torch.testing.assert_close(code.latent_rates.sum(1), code.rate)
    torch.testing.assert_close(code.stats["rate_1"], lower.rate.mean())
    torch.testing.assert_close(code.stats["rate_2"], top.rate.mean())


def test_posterior_log_prob_and_rate_agree_with_a_monte_carlo_estimate() -> None:
    """E[log q(z|x) - log p(z)] over samples equals the mean of the conditional KLs over samples of the top."""
    torch.manual_seed(0)
    hierarchy = bottleneck()
    given = [stage[:1] for stage in stages()]
    code = hierarchy([stage.expand(20_000, *stage.shape[1:]) for stage in given])
    posterior = hierarchy(given).posterior
    z = posterior.rsample((20_000,))
    assert z.shape == (20_000, 1, 7)
    log_ratio = posterior.log_prob(z)[:, 0] - hierarchy.prior.log_prob(z[:, 0])
    error = (log_ratio.var() + code.rate.var()).sqrt().item() / math.sqrt(20_000)
    assert abs(log_ratio.mean().item() - code.rate.mean().item()) < 4 * error


def test_mean_is_of_each_level_given_the_means_above() -> None:
    code = bottleneck()(stages())
    posterior = code.posterior
    assert isinstance(posterior, TopDownPosterior)
    torch.testing.assert_close(code.mean, posterior.mean)
    torch.testing.assert_close(code.mean[:, 4:], posterior.estimates[1].mean)


def test_rate_without_closed_form_at_the_top_is_estimated_from_the_sample() -> None:
    code = bottleneck(GaussianMixture(3, 2))(stages())
    assert code.latent_rates is None
    assert code.levels is not None
    top = code.levels[1]
    assert isinstance(top.posterior, Normal)
    assert code.rate.isfinite().all()


class LinearGaussian(GaussianLikelihood):
    """A Gaussian whose mean is the decoder's output."""

    def mean(self, params: Tensor) -> Tensor:
        return params


class LinearDecoder(nn.Module):
    """A decoder whose pixel is a linear map of the code."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.get_buffer("weight"))[:, None, None, None]


def test_log_likelihood_equals_the_exact_evidence_of_a_linear_gaussian_model() -> None:
    """x = w z + noise with the linear prior: log p(x) is a Gaussian density; the ELBO is below it."""
    prior = linear_prior()
    matrix, variance = linear_parameters(prior)
    weight, std = torch.tensor([0.3, -0.2, 0.4, 0.1, 0.2]), 0.5
    hierarchy = HierarchicalGaussian((1, 1), (5,), prior)
    for name, value in hierarchy.project_in.named_parameters():  # wide posteriors: all importance weights are alike
        value.data = torch.zeros_like(value)
        value.data[len(value) // 2 :] = 1.5 if name.endswith("bias") else 0.0  # log variances
    hierarchy.expand = lambda z: z  # type: ignore[method-assign]
    model = Autoencoder(TwoStages(), LinearDecoder(weight), hierarchy, likelihood=LinearGaussian(std))
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None, None]
    x = pixels.float().flatten() / 255
    top = weight[3:] + matrix.T @ weight[:3]  # w z = (w_2 + A' w_1) z_2 + w_1 noise
    deviation = (top.square().sum() + (weight[:3].square() * variance).sum() + std**2).sqrt()
    expected = Normal(0.0, deviation).log_prob(x)
    images = Images(pixels, torch.full((3,), -1), ())
    estimate = log_likelihoods(model, images, samples=20_000, at_once=5_000)
    torch.testing.assert_close(estimate, expected.double(), atol=0.02, rtol=0)
    loss = Joint(reconstruction=1.0, beta=1.0, classification=0.0)
    batch = Batch(x[:, None, None, None], torch.full((3,), -1))
    elbos = torch.stack([-loss(model, batch, 0).total for _ in range(200)])
    assert elbos.mean() < expected.mean()


class TwoStages(nn.Module):
    """The pixel, as the features of two stages."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def features(self, images: Tensor) -> list[Tensor]:
        return [images.flatten(1), images.flatten(1)]


@pytest.mark.parametrize("free_bits", [0.0, 0.1])
def test_hierarchy_trains_by_elbo_with_free_bits_and_iwae(free_bits: float) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8, generator=generator("hierarchy"))
    data = Splits(Images(pixels, torch.full((64,), -1), ()))
    for objective in (Joint(reconstruction=1.0, beta=1.0, classification=0.0, free_bits=free_bits), IWAE(3)):
        hierarchy = HierarchicalGaussian((16, 12), (12,), TopDownGaussian((3, 2), hidden=8))
        encoder, decoder = DenseEncoder((1, 6, 6), (16, 12)), DenseDecoder((1, 6, 6), (12,))
        model = Autoencoder(encoder, decoder, hierarchy, likelihood=GaussianLikelihood())
        results = fit(model, objective, data, Recipe(steps=20, batch_size=16, lr=1e-3))
        assert results["seconds"] > 0
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert model.sample(3).shape[0] == 3


@pytest.mark.usefixtures("unhooked")
def test_hierarchy_rejects_invalid_input() -> None:
    with pytest.raises(InputError, match="a hierarchy has two or more levels, got latents="):
        TopDownGaussian((4,))
    with pytest.raises(InputError, match="in_features must have a number for each of the 2 levels"):
        HierarchicalGaussian((4,), (2,), TopDownGaussian((4, 3)))
    with pytest.raises(InputError, match=r"the encoder's last stages must have \(12, 7\) numbers, got \(12, 8\)"):
        bottleneck()([*stages()[:2], torch.zeros(3, 8)])
    with pytest.raises(InputError, match=r"the encoder's last stages must have \(12, 7\) numbers, got \(7,\)"):
        bottleneck()([stages()[0], stages()[2]])
    model = Autoencoder(ConvEncoder(1, (2,)), DeconvDecoder(1, (5, 2)), bottleneck())
    with pytest.raises(InputError, match=r"must have \(12, 7\) numbers"):
        model(torch.rand(2, 1, 4, 4))
    code = bottleneck()(stages())
    with pytest.raises(InputError, match="beta-TC needs a bottleneck with a posterior of independent latents"):
        BetaTC(images=100).parts(model, code)
