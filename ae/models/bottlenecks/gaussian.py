"""Stochastic bottlenecks: the code is drawn from a distribution that the features give."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from ae.functional import at_least_float32, kl_to_standard_normal
from ae.models.bottlenecks.code import Code
from ae.utils import distributed
from ae.utils.validation import AtLeast0, Positive, check_shape, checked_arguments

_LOG_VARIANCES = (-14.0, 14.0)  # in nats; beyond them a variance is not told from 0, or from infinity, in float32
_ACTIVE = 0.01  # variance over images from which a latent's mean counts as active


class Gaussian(nn.Module):
    """A latent vector drawn from a diagonal Gaussian, of which the features give mean and variance by a linear map.

    Kingma & Welling 2014: z = mean + std * noise, in training and evaluation alike, so that a loss is that of a sample;
    the prior is N(0, I), the rate KL(q(z|x) || N(0, I)) in nats. `mean` of the code is the posterior's mean. Posterior
    and rate are computed in float32, whatever the autocast.
    `stats`: the number of active units, whose mean varies over the batch by more than 0.01 (Burda et al. 2016, 5.2).
    """

    @checked_arguments
    def __init__(self, in_shape: Sequence[Positive[int]], latent: Positive[int]) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.project_in = nn.Linear(math.prod(in_shape), 2 * latent)
        self.project_out = nn.Linear(latent, math.prod(in_shape))

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z and mean [b latent] and the rate in nats."""
        check_shape("features", features, self.in_shape)
        with torch.autocast(features.device.type, enabled=False):
            mean, log_variance = self.project_in(features.flatten(1).to(self.project_in.weight.dtype)).chunk(2, dim=1)
        centre = at_least_float32(mean)
        std = (0.5 * at_least_float32(log_variance).clamp(*_LOG_VARIANCES)).exp()
        posterior = Normal(centre, std, validate_args=False)  # NaN is found by whoever trains, and named
        rate = kl_to_standard_normal(centre, std).sum(1)
        return Code(
            z=(centre + std * torch.randn_like(centre)).to(mean.dtype),
            mean=mean,
            rate=rate,
            penalty=torch.zeros_like(rate),
            posterior=posterior,
            stats={"active_units": (distributed.variance(mean) > _ACTIVE).sum().float()},
        )

    def prior(self, like: Float[Tensor, "b latent"]) -> Normal:
        """N(0, I), on the device and of the type of what it is compared with."""
        return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b latent"]:
        """`count` codes from the prior."""
        return torch.randn(count, self.latent, device=self.project_out.weight.device)

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> features [b *in_shape], not negative."""
        check_shape("z", z, (self.latent,))
        return self.project_out(z).relu().unflatten(1, self.in_shape)
