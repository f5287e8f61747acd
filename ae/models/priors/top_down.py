"""A prior over levels of latent vectors, each conditioned on the level above."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from ae.functional import at_least_float32, diagonal_gaussian
from ae.models.priors.normal import StandardNormal
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Positive, check_shape, checked_arguments


class TopDownGaussian(nn.Module):
    """Levels of latent vectors: p(z) = p(z_L) prod_i N(z_i; mean_i(z_{i+1}), std_i(z_{i+1})^2).

    Sønderby et al. 2016 (ladder VAE), equations 1 and 2. A code [b sum(latents)] concatenates the levels, the level
    nearest to the image first. Mean and log variance of a level are a network with `hidden` ReLUs on the level above.

    latents  size of each level, the level nearest to the image first
    top      prior of the last level; default: N(0, I)
    """

    @checked_arguments
    def __init__(
        self, latents: Sequence[Positive[int]], hidden: Positive[int] = 128, top: nn.Module | None = None
    ) -> None:
        super().__init__()
        if len(latents) < 2:
            raise InputError(f"a hierarchy has two or more levels, got latents={tuple(latents)}")
        self.latents, self.hidden = tuple(latents), hidden
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(above, hidden), nn.ReLU(), nn.Linear(hidden, 2 * below))
            for below, above in pairwise(self.latents)
        )
        self.top: Any = StandardNormal(self.latents[-1:]) if top is None else top

    def given(self, level: int, above: Float[Tensor, "*b above"]) -> Normal:
        """p(z_level | z_{level+1} = above), in float32 under autocast."""
        with torch.autocast(above.device.type, enabled=False):
            return diagonal_gaussian(*self.networks[level](above).chunk(2, dim=-1))

    def split(self, z: Float[Tensor, "*b d"]) -> list[Float[Tensor, "*b _"]]:
        """Code -> the latent vector of each level."""
        if z.shape[-1] != sum(self.latents):
            raise InputError(f"z must be [b {sum(self.latents)}], got {list(z.shape)}")
        return list(z.split(self.latents, dim=-1))

    def log_prob(self, z: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Log density in nats."""
        check_shape("z", z, (sum(self.latents),))
        levels = self.split(at_least_float32(z))
        log_p = self.top.log_prob(levels[-1])
        for i, (below, above) in enumerate(pairwise(levels)):
            log_p = log_p + self.given(i, above).log_prob(below).sum(1)
        return log_p

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b d"]:
        """`count` codes, drawn level by level from the top."""
        levels = [self.top.sample(count)]
        for i in reversed(range(len(self.networks))):
            p = self.given(i, levels[0])
            levels.insert(0, p.loc + p.scale * torch.randn_like(p.loc))
        return torch.cat(levels, 1)
