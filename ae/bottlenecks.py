"""Bottlenecks: features -> Code -> features again. The model never asks which one it has.

The contract is two methods: `forward(features) -> Code` and `expand(z) -> features`, what the decoder reads.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ae.checks import check_positive, check_shape


@dataclass
class Code:
    """What a bottleneck makes of the features of b images.

    z          what the decoder reads; a sample where the bottleneck is stochastic
    mean       deterministic; what heads and probes read; is z where there is no noise
    rate       [b] nats; zeros where there is none
    penalty    [b] with gradient (commitment, sparsity); zeros where there is none
    posterior  for objectives that need more than the rate
    stats      detached scalars to log: perplexity, active units, ...
    """

    z: Float[Tensor, "b *code"]
    mean: Float[Tensor, "b *code"]
    rate: Float[Tensor, " b"]
    penalty: Float[Tensor, " b"]
    posterior: Distribution | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def deterministic(cls, z: Float[Tensor, "b *code"]) -> "Code":
        """The code of a bottleneck with no noise, no rate and no penalty."""
        zeros = z.new_zeros(z.shape[:1])  # len(z) would fix the batch size where the model is exported
        return cls(z=z, mean=z, rate=zeros, penalty=zeros)


torch.export.register_dataclass(Code)  # so that what returns one can be exported


class Identity(nn.Module):
    """No bottleneck: the features are the code."""

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b ...] -> the same as a Code."""
        return Code.deterministic(features)

    def expand(self, z: Float[Tensor, "b *features"]) -> Float[Tensor, "b *features"]:
        """z [b ...] -> the same."""
        return z


class Dense(nn.Module):
    """A latent vector of `latent` numbers: a linear map from all features, and a linear map with a ReLU back.

    The ReLU gives the decoder what an encoder's last stage gives it: features that are not negative.
    Raises InputError for features of another shape than `in_shape`.
    """

    def __init__(self, in_shape: tuple[int, ...], latent: int) -> None:
        super().__init__()
        check_positive(in_shape=min(in_shape), latent=latent)
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.reduce = nn.Linear(math.prod(in_shape), latent)
        self.restore = nn.Linear(latent, math.prod(in_shape))

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent]."""
        check_shape("features", features, self.in_shape)
        return Code.deterministic(self.reduce(features.flatten(1)))

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> features [b *in_shape]."""
        check_shape("z", z, (self.latent,))
        return self.restore(z).relu().unflatten(1, self.in_shape)
