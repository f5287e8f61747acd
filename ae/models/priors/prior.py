"""The contract of priors over codes."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError


@runtime_checkable
class Prior(Protocol):
    """The contract above."""

    def log_prob(self, z: Float[Tensor, "b *code"]) -> Float[Tensor, " b"]: ...
    def sample(self, count: int) -> Float[Tensor, "b *code"]: ...


def prior_of(bottleneck: nn.Module) -> Prior:
    """The prior of a bottleneck; raises InputError if it has none."""
    prior = getattr(bottleneck, "prior", None)
    if not isinstance(prior, Prior):
        name = type(bottleneck).__name__
        raise InputError(f"{name} has no prior to sample from: give one, as in Dense(..., prior=StandardNormal(...))")
    return prior


def has_prior(bottleneck: nn.Module) -> bool:
    """Whether a bottleneck has a prior."""
    return isinstance(getattr(bottleneck, "prior", None), Prior)
