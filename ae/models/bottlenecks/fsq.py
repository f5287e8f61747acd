"""Finite scalar quantisation."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.tokens import check_channels, or_tokens
from ae.models.bottlenecks.usage import code_usage
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast2, Positive, checked_arguments

_LARGEST_CODEBOOK = 2**24  # largest codebook of which usage is counted


class FSQ(nn.Module):
    """Finite scalar quantisation: project each position to a few channels and round channel i to `levels[i]` values.

    Features are a map [b channels h w] or tokens [b n channels].

    Mentzer et al. 2024, section 3.1. A linear map to len(levels) channels is bounded by a tanh and rounded, with
    straight-through gradients; z is normalised to [-1, 1] by half the number of levels. There is no codebook and no
    auxiliary loss. For an even number of levels, 0 is a level and the tanh is shifted by half a level. For two levels
    there is no shift, since both levels would lie where the tanh is flat: 0 is between the levels. `stats` are the
    batch's `perplexity` and `codes_used` of prod(levels) codes (`code_usage`). Raises InputError for more than 2^24
    codes.
    """

    @checked_arguments
    def __init__(self, channels: Positive[int], levels: Sequence[AtLeast2[int]] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if not levels:
            raise InputError("levels must be one or more numbers, got none")
        if math.prod(levels) > _LARGEST_CODEBOOK:
            raise InputError(f"levels must make at most {_LARGEST_CODEBOOK:,} codes, got {math.prod(levels):,}")
        self.channels, self.levels = channels, tuple(levels)
        self.project_in = nn.Conv2d(channels, len(levels), 1)
        self.project_out = nn.Conv2d(len(levels), channels, 1)

    @or_tokens
    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z [b len(levels) h w] in [-1, 1]."""
        check_channels(features, self.channels)
        projected = self.project_in(features)
        with torch.autocast(features.device.type, enabled=False):
            z = self._quantized(projected.to(torch.promote_types(projected.dtype, torch.float32)))
        code = Code.deterministic(z)
        code.indices = self.indices(z.detach())
        code.stats = code_usage(code.indices, self.codebook_size)
        return code

    @property
    def codebook_size(self) -> int:
        """Number of codes, prod(levels)."""
        return math.prod(self.levels)

    def _quantized(self, projected: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        """Bound and round with straight-through gradients; in float32, as bfloat16 does not resolve the shifts."""
        levels = self._levels(projected)
        half, shift = (levels - 1) * (1 + 1e-3) / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (projected + torch.where(levels > 2, shift / half, 0.0).atanh()).tanh() * half - shift
        return (bounded + (self._rounded(bounded) - bounded).detach()) / (levels // 2)

    def _rounded(self, bounded: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        levels = self._levels(bounded)
        return bounded.round().clamp(-(levels // 2), (levels - 1) // 2)

    @or_tokens
    def project(self, z: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        """z [b len(levels) h w] -> the nearest code."""
        half = self._levels(z) // 2
        return self._rounded(z * half) / half

    @or_tokens
    def expand(self, z: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b c h w"]:
        """z [b len(levels) h w] -> non-negative features [b channels h w]."""
        return self.project_out(z).relu()

    @or_tokens
    def indices(self, z: Float[Tensor, "b levels h w"]) -> Int64[Tensor, "b h w"]:
        """Index of the code at each position, 0 to prod(levels) - 1."""
        levels = self._levels(z)
        digits = (z * (levels // 2) + levels // 2).round().long()
        return (digits * self._basis(z.device)).sum(1)

    @or_tokens
    def lookup(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, "b levels h w"]:
        """The codes of these indices: z [b len(levels) h w]."""
        levels = torch.tensor(self.levels, device=index.device)[:, None, None]
        digits = index[:, None] // self._basis(index.device) % levels
        return (digits - levels // 2) / (levels // 2)

    def _basis(self, device: torch.device) -> Int64[Tensor, "levels 1 1"]:
        """Place values of the digits of an index."""
        return torch.cumprod(torch.tensor([1, *self.levels[:-1]], device=device), 0)[:, None, None]

    def _levels(self, like: Tensor) -> Float[Tensor, "levels 1 1"]:
        return torch.tensor(self.levels, dtype=like.dtype, device=like.device)[:, None, None]
