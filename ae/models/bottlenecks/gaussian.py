"""The bottlenecks of VAEs: samples of diagonal Gaussian posteriors over vectors and maps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from ae.functional import diagonal_gaussian
from ae.models.bottlenecks.code import Code
from ae.models.priors import StandardNormal
from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments

_ACTIVE = 0.01  # variance of a latent's posterior mean over images above which it counts as active


class Gaussian(nn.Module):
    """Latent vector with a diagonal Gaussian posterior; mean and log variance are a linear map of the features.

    Kingma & Welling 2014: z = mean + std * noise, in training and in evaluation. The prior is a part of the bottleneck,
    by default N(0, I). The rate KL(q(z|x) || p(z)) in nats is in closed form if the prior has one (`kl`), else the
    estimate log q(z|x) - log p(z) of the sample z. `Code.mean` is the posterior's mean. Posterior and rate are float32
    under autocast.
    `stats`: `active_units`, the number of latents whose posterior mean has a variance above 0.01 over the batch (Burda
    et al. 2016, section 5.2).
    """

    @checked_arguments
    def __init__(
        self, in_shape: Sequence[Positive[int]], latent: Positive[int], prior: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.project_in = nn.Linear(math.prod(in_shape), 2 * latent)
        self.project_out = nn.Linear(latent, math.prod(in_shape))
        self.prior = StandardNormal((latent,)) if prior is None else prior

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z and mean [b latent] and the rate in nats."""
        check_shape("features", features, self.in_shape)
        with torch.autocast(features.device.type, enabled=False):
            mean, log_variance = self.project_in(features.flatten(1).to(self.project_in.weight.dtype)).chunk(2, dim=1)
        return _gaussian_code(mean, log_variance, self.prior)

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> non-negative features [b *in_shape]."""
        check_shape("z", z, (self.latent,))
        return self.project_out(z).relu().unflatten(1, self.in_shape)


class SpatialGaussian(nn.Module):
    """Latent map with a diagonal Gaussian posterior at each position, as in latent diffusion's first stage.

    Features [b *in_shape] -> z [b latent h w]; mean and log variance are a 1x1 convolution of the features. Rombach et
    al. 2022, section 3.1 and appendix G (KL-reg). Prior, rate and `stats` as in `Gaussian`. Features of another height
    and width than in `in_shape`, which samples have, are valid if the prior accepts them.
    """

    @checked_arguments
    def __init__(
        self, in_shape: Sequence[Positive[int]], latent: Positive[int], prior: nn.Module | None = None
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise InputError(f"in_shape must be (channels, height, width), got {tuple(in_shape)}")
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.project_in = nn.Conv2d(in_shape[0], 2 * latent, 1)
        self.project_out = nn.Conv2d(latent, in_shape[0], 1)
        self.prior = StandardNormal((latent, *in_shape[1:])) if prior is None else prior

    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z and mean [b latent h w] and the rate in nats."""
        if features.ndim != 4 or features.shape[1] != self.in_shape[0]:
            raise InputError(f"features must be [b {self.in_shape[0]} h w], got {list(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            mean, log_variance = self.project_in(features.to(self.project_in.weight.dtype)).chunk(2, dim=1)
        return _gaussian_code(mean, log_variance, self.prior)

    def expand(self, z: Float[Tensor, "b latent h w"]) -> Float[Tensor, "b c h w"]:
        """z [b latent h w] -> non-negative features [b channels h w]."""
        if z.ndim != 4 or z.shape[1] != self.latent:
            raise InputError(f"z must be [b {self.latent} h w], got {list(z.shape)}")
        return self.project_out(z).relu()


def _gaussian_code(mean: Float[Tensor, "b *d"], log_variance: Float[Tensor, "b *d"], prior: Any) -> Code:
    """Sample z from the diagonal Gaussian posterior, with the rate against the prior."""
    posterior = diagonal_gaussian(mean, log_variance)
    z = posterior.loc + posterior.scale * torch.randn_like(posterior.loc)
    rate, latent_rates = rates(posterior, z, prior)
    return Code(
        z=z.to(mean.dtype),
        mean=mean,
        rate=rate,
        latent_rates=latent_rates,
        posterior=posterior,
        stats={"active_units": active_units(mean)},
    )


def rates(
    posterior: Normal, z: Float[Tensor, "b *d"], prior: Any
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b d"] | None]:
    """KL(posterior || prior) and the KL of each latent in nats, in closed form; else an estimate from z, and None."""
    if hasattr(prior, "kl"):
        latent_rates = prior.kl(posterior).flatten(1)
        return latent_rates.sum(1), latent_rates
    return posterior.log_prob(z).flatten(1).sum(1) - prior.log_prob(z), None


def active_units(mean: Float[Tensor, "b *d"]) -> Float[Tensor, ""]:
    """The number of latents whose posterior mean has a variance above 0.01 over the batch."""
    return (global_batch.variance(mean.flatten(1)) > _ACTIVE).sum().float()
