"""The bottleneck of a VAE: a sample of a diagonal Gaussian posterior."""

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

_LOG_VARIANCES = (-14.0, 14.0)  # bounds of the log variance, so that the variance is neither 0 nor infinite in float32
_ACTIVE = 0.01  # variance of a latent's posterior mean over images above which it counts as active


class Gaussian(nn.Module):
    """Latent vector with a diagonal Gaussian posterior; mean and log variance are a linear map of the features.

    Kingma & Welling 2014: z = mean + std * noise, in training and in evaluation. The prior is N(0, I); the rate is
    KL(q(z|x) || N(0, I)) in nats. `Code.mean` is the posterior's mean. Posterior and rate are float32 under autocast.
    `stats`: `active_units`, the number of latents whose posterior mean has a variance above 0.01 over the batch (Burda
    et al. 2016, section 5.2).
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
        loc = at_least_float32(mean)
        std = (0.5 * at_least_float32(log_variance).clamp(*_LOG_VARIANCES)).exp()
        posterior = Normal(loc, std, validate_args=False)  # the training loop reports NaN
        rate = kl_to_standard_normal(loc, std).sum(1)
        return Code(
            z=(loc + std * torch.randn_like(loc)).to(mean.dtype),
            mean=mean,
            rate=rate,
            penalty=torch.zeros_like(rate),
            posterior=posterior,
            stats={"active_units": (distributed.variance(mean) > _ACTIVE).sum().float()},
        )

    def prior(self, like: Float[Tensor, "b latent"]) -> Normal:
        """N(0, I), of the shape, device and dtype of `like`."""
        return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b latent"]:
        """Draw `count` codes from the prior."""
        return torch.randn(count, self.latent, device=self.project_out.weight.device)

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> non-negative features [b *in_shape]."""
        check_shape("z", z, (self.latent,))
        return self.project_out(z).relu().unflatten(1, self.in_shape)
