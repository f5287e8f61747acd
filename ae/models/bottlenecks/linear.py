"""Deterministic bottlenecks: the features themselves, or a linear map of them."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.utils.validation import Positive, check_shape, checked_arguments


class Identity(nn.Module):
    """No bottleneck: the features are the code."""

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b ...] -> Code with z = features."""
        return Code.deterministic(features)

    def expand(self, z: Float[Tensor, "b *features"]) -> Float[Tensor, "b *features"]:
        """Return z [b ...] unchanged."""
        return z


class Dense(nn.Module):
    """Latent vector of size `latent`: a linear map of the features, and a linear map with a ReLU back.

    With the ReLU, the decoder's input is non-negative, as the output of an encoder's last stage. A prior is optional.
    Raises InputError for features of another shape than `in_shape`.
    """

    @checked_arguments
    def __init__(
        self, in_shape: Sequence[Positive[int]], latent: Positive[int], prior: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.prior = prior
        self.project_in = nn.Linear(math.prod(in_shape), latent)
        self.project_out = nn.Linear(latent, math.prod(in_shape))

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent]."""
        check_shape("features", features, self.in_shape)
        return Code.deterministic(self.project_in(features.flatten(1)))

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> features [b *in_shape]."""
        check_shape("z", z, (self.latent,))
        return self.project_out(z).relu().unflatten(1, self.in_shape)
