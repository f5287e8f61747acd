"""The output of a bottleneck."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution


@dataclass
class Code:
    """Output of a bottleneck for the features of b images.

    z             input of the decoder; a sample if the bottleneck is stochastic
    mean          deterministic input of heads and probes; equal to z if the bottleneck is deterministic
    rate          [b] in nats, or zeros
    latent_rates  [b latents] of which the rate is the sum, if it is one
    aux           auxiliary losses by name, [b] each with gradient (commitment, sparsity)
    posterior     q(z|x), for objectives that need more than the rate
    indices       of a quantizer: the index of the code at each position, int64
    stats         detached scalars to log: perplexity, active units, ...
    levels        of a code of several levels: the code of each, the level nearest to the image first
    stages        images and features of every stage of the encoder, for heads that read them (`ae.models.heads`)
    """

    z: Float[Tensor, "b *code"]
    mean: Float[Tensor, "b *code"]
    rate: Float[Tensor, " b"]
    latent_rates: Float[Tensor, "b latents"] | None = None
    aux: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)
    posterior: Distribution | None = None
    indices: Int64[Tensor, "b ..."] | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)
    levels: "list[Code] | None" = None
    stages: list[Float[Tensor, "b ..."]] | None = None

    @classmethod
    def deterministic(cls, z: Float[Tensor, "b *code"]) -> "Code":
        """Code without noise, rate and auxiliary losses."""
        zeros = z.new_zeros(z.shape[:1])  # len(z) would specialise the batch size in torch.export
        return cls(z=z, mean=z, rate=zeros)


torch.export.register_dataclass(Code)  # for torch.export of modules that return a Code
