"""What a bottleneck makes of features."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution


@dataclass
class Code:
    """Result of a bottleneck for the features of b images.

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
