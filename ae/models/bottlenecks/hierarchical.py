"""The bottleneck of ladder VAEs: levels of latent vectors with top-down inference."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Normal

from ae.functional import diagonal_gaussian, kl_of_normals
from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.gaussian import active_units, rates
from ae.models.priors.top_down import TopDownGaussian
from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments


class Level(NamedTuple):
    """A level of a code: the vector, its posterior, and its prior given the level above; None at the top."""

    z: Float[Tensor, "*b d"]
    posterior: Normal
    prior: Normal | None


class TopDownPosterior(Distribution):
    """q(z|x) = q(z_L|x) prod_i q(z_i | z_{i+1}, x) over codes that concatenate the levels.

    The mean of q(z_i | z_{i+1}, x) is the precision-weighted mean of the encoder's estimate and of p(z_i | z_{i+1}),
    and its precision the sum of theirs (Sønderby et al. 2016, section 2.2).
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # PyTorch's

    def __init__(self, estimates: Sequence[Normal], prior: TopDownGaussian) -> None:
        """Estimates of each level by the encoder, [b latent], the level nearest to the image first."""
        self.estimates, self.hierarchy = estimates, prior
        super().__init__(estimates[0].batch_shape[:1], Size([sum(prior.latents)]), validate_args=False)

    def levels(self, choose: Callable[[int, Normal], Tensor]) -> list[Level]:
        """Descend from the top; `choose(i, q)` gives the vector of level i from its posterior, given those above."""
        posterior = self.estimates[-1]
        levels = [Level(choose(len(self.estimates) - 1, posterior), posterior, None)]
        for i in reversed(range(len(self.estimates) - 1)):
            prior = self.hierarchy.given(i, levels[0].z)
            posterior = _product(self.estimates[i], prior)
            levels.insert(0, Level(choose(i, posterior), posterior, prior))
        return levels

    @property
    def mean(self) -> Float[Tensor, "b d"]:
        """The code in which each level is the mean given the levels above; not the mean over their noise."""
        return torch.cat([level.z for level in self.levels(lambda _, q: q.loc)], -1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*k b d"]:
        """Codes, drawn level by level from the top, with gradient."""
        return torch.cat([level.z for level in self.levels(_noisy(sample_shape))], -1)

    def log_prob(self, z: Float[Tensor, "*k b d"]) -> Float[Tensor, "*k b"]:
        """Log density in nats."""
        given = self.hierarchy.split(z)
        levels = self.levels(lambda i, _: given[i])
        return torch.stack([level.posterior.log_prob(level.z).sum(-1) for level in levels]).sum(0)


class HierarchicalGaussian(nn.Module):
    """Levels of latent vectors, each inferred from a stage of the encoder and from the level above.

    Sønderby et al. 2016 (ladder VAE). The encoder's estimates of the levels are linear maps of its last stages, one
    for each level of the prior; the decoder reads all levels. z and mean [b sum(prior.latents)] concatenate the levels,
    the level nearest to the image first. The rate is the sum over the levels of KL(q(z_i | z_{i+1}, x) ||
    p(z_i | z_{i+1})) in nats, in closed form given the sample of the level above; of the top level, as in `Gaussian`.
    Posteriors and rates are float32 under autocast.

    in_features  numbers of the encoder's last stages: channels * height * width
    out_shape    shape of the features that the decoder reads

    `Code.levels` has the code of each level. `stats`: `rate_1`, ..., the mean rate of each level; `active_units` as in
    `Gaussian`.
    """

    reads_stages = True

    @checked_arguments
    def __init__(
        self, in_features: Sequence[Positive[int]], out_shape: Sequence[Positive[int]], prior: TopDownGaussian
    ) -> None:
        super().__init__()
        if len(in_features) != len(prior.latents):
            raise InputError(
                f"in_features must have a number for each of the {len(prior.latents)} levels of the prior, "
                f"got {tuple(in_features)}"
            )
        self.in_features, self.out_shape = tuple(in_features), tuple(out_shape)
        sizes = zip(self.in_features, prior.latents, strict=True)
        self.project_in = nn.ModuleList(nn.Linear(size, 2 * latent) for size, latent in sizes)
        self.project_out = nn.Linear(sum(prior.latents), math.prod(out_shape))
        self.prior = prior

    def forward(self, stages: Sequence[Float[Tensor, "b ..."]]) -> Code:
        """Images and features of every stage -> Code with z and mean [b sum(latents)] and the rate in nats."""
        posterior = TopDownPosterior(self._estimates(stages), self.prior)
        levels = posterior.levels(_noisy(()))
        means = posterior.levels(lambda _, q: q.loc)
        codes = [self._code(level, mean.z) for level, mean in zip(levels, means, strict=True)]
        mean = torch.cat([code.mean for code in codes], 1)
        latent_rates = [code.latent_rates for code in codes if code.latent_rates is not None]
        stats = {f"rate_{i + 1}": global_batch.mean(code.rate) for i, code in enumerate(codes)}
        return Code(
            z=torch.cat([code.z for code in codes], 1),
            mean=mean,
            rate=torch.stack([code.rate for code in codes]).sum(0),
            latent_rates=torch.cat(latent_rates, 1) if len(latent_rates) == len(codes) else None,
            posterior=posterior,
            stats={**stats, "active_units": active_units(mean)},
            levels=codes,
        )

    def _estimates(self, stages: Sequence[Float[Tensor, "b ..."]]) -> list[Normal]:
        last = [stage.flatten(1) for stage in stages[1:]][-len(self.in_features) :]  # the first are the images
        sizes = tuple(stage.shape[1] for stage in last)
        if sizes != self.in_features:
            raise InputError(f"the encoder's last stages must have {self.in_features} numbers, got {sizes}")
        with torch.autocast(last[0].device.type, enabled=False):
            return [
                diagonal_gaussian(*linear(stage.to(self.project_out.weight.dtype)).chunk(2, dim=1))
                for linear, stage in zip(self.project_in, last, strict=True)
            ]

    def _code(self, level: Level, mean: Float[Tensor, "b d"]) -> Code:
        """The code of one level, with the rate given the levels above."""
        if level.prior is None:
            rate, latent_rates = rates(level.posterior, level.z, self.prior.top)
        else:
            latent_rates = kl_of_normals(level.posterior, level.prior)
            rate = latent_rates.sum(1)
        return Code(level.z, mean, rate, latent_rates, posterior=level.posterior)

    def expand(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b *features"]:
        """z [b sum(latents)] -> non-negative features [b *out_shape]."""
        check_shape("z", z, (sum(self.prior.latents),))
        return self.project_out(z).relu().unflatten(1, self.out_shape)


def _product(first: Normal, second: Normal) -> Normal:
    """The normalised product of two diagonal Gaussian densities."""
    precisions = first.scale**-2, second.scale**-2
    variance = 1 / (precisions[0] + precisions[1])
    mean = variance * (first.loc * precisions[0] + second.loc * precisions[1])
    return Normal(mean, variance.sqrt(), validate_args=False)


def _noisy(shape: Sequence[int]) -> Callable[[int, Normal], Tensor]:
    """Draw a level's vector; the samples of the levels below have the shape of the sample above."""

    def choose(_: int, q: Normal) -> Tensor:
        size = q.loc.shape if q.loc.ndim > 2 else (*shape, *q.loc.shape)
        return q.loc + q.scale * torch.randn(size, dtype=q.loc.dtype, device=q.loc.device)

    return choose
