"""Variational objectives, compared with brute force and torch.distributions."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, OneHotCategorical

from ae import (
    IWAE,
    Autoencoder,
    Batch,
    BetaTC,
    Classifier,
    Contractive,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    InputError,
    Joint,
)
from ae.data import Images
from ae.evaluation.sampling import has_log_likelihood
from ae.models.bottlenecks import Code
from ae.models.likelihoods import BernoulliLikelihood
from ae.models.priors import StandardNormal
from ae.objectives.variational import log_weights, mmd

JOINT = Joint(reconstruction=1.0, classification=1.0)


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    head = {"digit": Classifier((5,), 3)}
    return Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Gaussian((6, 3, 3), 5), head, BernoulliLikelihood()
    )


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(6, 1, 10, 12), torch.tensor([0, -1, 2, -1, 1, 2]))


def test_log_weights_are_density_ratios(model: Autoencoder, batch: Batch) -> None:
    torch.manual_seed(1)
    code = model.encode(batch.images)
    torch.manual_seed(2)
    actual = log_weights(model, batch.images, code, 4)
    torch.manual_seed(2)
    noise = torch.randn(4, 6, 5)
    assert code.posterior is not None
    for k, i in itertools.product(range(4), range(6)):
        mean, std = code.posterior.mean[i], code.posterior.stddev[i]
        z = mean + std * noise[k, i]
        pixels = model.decode_params(z[None], (10, 12))
        joint = Bernoulli(logits=pixels, validate_args=False).log_prob(batch.images[i]).sum()
        joint = joint + Normal(0.0, 1.0).log_prob(z).sum()
        assert actual[k, i].item() == pytest.approx((joint - Normal(mean, std).log_prob(z).sum()).item(), rel=1e-4)


def test_iwae_equals_elbo_for_one_sample_and_is_tighter_for_more(model: Autoencoder, batch: Batch) -> None:
    many = Batch(batch.images.repeat(500, 1, 1, 1), batch.labels.repeat(500))
    with torch.no_grad():
        bounds = [-IWAE(k)(model, many, 0).total.item() for k in (1, 5, 25)]
        elbo = -Joint(reconstruction=1.0, beta=1.0, classification=0.0)(model, many, 0).total.item()
    assert bounds[0] == pytest.approx(elbo, rel=1e-3)
    assert bounds[0] < bounds[1] < bounds[2]


def test_beta_tc_equals_brute_force(model: Autoencoder, batch: Batch) -> None:
    code = model.encode(batch.images)
    assert code.posterior is not None
    mean, std, z = code.posterior.mean, code.posterior.stddev, code.z
    information = correlation = divergence = 0.0
    for i in range(6):
        densities = [[Normal(mean[j, d], std[j, d]).log_prob(z[i, d]).exp().item() for d in range(5)] for j in range(6)]
        q_z = sum(math.prod(of_one) for of_one in densities) / (100 * 6)
        q_each = math.prod(sum(of_one[d] for of_one in densities) / (100 * 6) for d in range(5))
        information += math.log(math.prod(densities[i]) / q_z) / 6
        correlation += math.log(q_z / q_each) / 6
        divergence += (math.log(q_each) - Normal(0.0, 1.0).log_prob(z[i]).sum().item()) / 6
    actual = {name: value.item() for name, value in BetaTC(images=100).parts(model, code).items()}
    expected = {"mutual_information": information, "total_correlation": correlation, "dimension_wise_kl": divergence}
    assert actual == pytest.approx(expected, rel=1e-3)


def test_mmd_equals_brute_force_and_known_values() -> None:
    def kernel(x: Tensor, y: Tensor) -> float:
        return sum(6 * s / (6 * s + (x - y).square().sum().item()) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))

    x, y = torch.randn(4, 3), torch.randn(5, 3) + 1
    within = sum(kernel(a, b) for a, b in itertools.permutations(x, 2)) / 12
    within += sum(kernel(a, b) for a, b in itertools.permutations(y, 2)) / 20
    between = sum(kernel(a, b) for a in x for b in y) / 20
    assert mmd(x, y).item() == pytest.approx(within - 2 * between, rel=1e-4)
    torch.manual_seed(0)
    same = [mmd(torch.randn(50, 3), torch.randn(50, 3)).item() for _ in range(50)]
    assert abs(sum(same) / 50) < 0.02  # unbiased
    assert mmd(torch.randn(200, 3), torch.randn(200, 3) * 0.2).item() > 0.3


def test_contractive_norm_equals_autograd_jacobian(model: Autoencoder, batch: Batch) -> None:
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x).mean.sum(0), batch.images[:3])
    expected = jacobian.square().sum((0, 2, 3, 4)).mean().item()  # [latents b c h w]: images are independent
    torch.manual_seed(0)
    few = Batch(batch.images[:3], batch.labels[:3])
    actual = Contractive(projections=4000, joint=JOINT)(model, few, 0).terms["jacobian"].item()
    assert actual == pytest.approx(expected, rel=0.05)


def test_variational_objectives_reject_models_without_posterior(batch: Batch) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5))
    for objective in (IWAE(), BetaTC(images=100)):
        with pytest.raises(InputError, match="needs a bottleneck with a posterior"):
            objective(model, batch, 0)
    with pytest.raises(InputError, match="samples must be positive, got 0"):
        IWAE(0)


class Categorical(nn.Module):
    """A bottleneck whose posterior has no reparameterised samples."""

    prior = StandardNormal((5,))

    def forward(self, features: Tensor) -> Code:
        return replace(Code.deterministic(features.flatten(1)[:, :5]), posterior=OneHotCategorical(torch.ones(2, 5)))

    def expand(self, z: Tensor) -> Tensor:
        return z.mean() + torch.zeros(len(z), 6, 3, 3)


def test_importance_weights_need_reparameterised_samples() -> None:
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Categorical(), likelihood=BernoulliLikelihood()
    )
    images = Images(torch.zeros(2, 1, 12, 12, dtype=torch.uint8), torch.full((2,), -1), ())
    with pytest.raises(InputError, match="needs a bottleneck with a posterior that has rsample"):
        IWAE()(model, images.batch(slice(2)), 0)
    assert not has_log_likelihood(model, images)
