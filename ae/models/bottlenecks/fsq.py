"""Finite scalar quantisation."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.usage import code_usage
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast2, Positive, checked_arguments

_LARGEST_CODEBOOK = 2**24  # codes whose usage can be counted


class FSQ(nn.Module):
    """Finite scalar quantisation: each place becomes a few numbers, each rounded to one of its `levels`.

    Mentzer et al. 2024, section 3.1: a linear map to len(levels) numbers, bounded by a tanh and rounded with gradients
    that pass straight through; z holds them divided by half their levels, in [-1, 1]. No codebook, no penalty. Of an
    even number of levels 0 is one, and the tanh is shifted by half a level; of two it is not, since both would lie
    where the tanh has no slope: 0 is then between them. `stats`: perplexity of the prod(levels) codes in the batch, and
    the fraction used. Raises InputError for more than 2^24 codes.
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

    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z [b len(levels) h w] in [-1, 1]."""
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise InputError(f"features must be [b {self.channels} h w], got {list(features.shape)}")
        numbers = self.project_in(features)
        with torch.autocast(features.device.type, enabled=False):
            z = self._quantized(numbers.to(torch.promote_types(numbers.dtype, torch.float32)))
        code = Code.deterministic(z)
        code.stats = code_usage(self.indices(z.detach()), math.prod(self.levels))
        return code

    def _quantized(self, numbers: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        """Any numbers -> their levels, with gradients straight through; in bfloat16 the tanh has no room for shifts."""
        levels = self._levels(numbers)
        half, shift = (levels - 1) * (1 + 1e-3) / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (numbers + torch.where(levels > 2, shift / half, 0.0).atanh()).tanh() * half - shift
        return (bounded + (self._rounded(bounded) - bounded).detach()) / (levels // 2)

    def _rounded(self, bounded: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        levels = self._levels(bounded)
        return bounded.round().clamp(-(levels // 2), (levels - 1) // 2)

    def project(self, z: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b levels h w"]:
        """z [b len(levels) h w] -> the nearest code."""
        half = self._levels(z) // 2
        return self._rounded(z * half) / half

    def expand(self, z: Float[Tensor, "b levels h w"]) -> Float[Tensor, "b c h w"]:
        """z [b len(levels) h w] -> features [b channels h w], not negative."""
        return self.project_out(z).relu()

    def indices(self, z: Float[Tensor, "b levels h w"]) -> Int64[Tensor, "b h w"]:
        """The index of each place's code, 0 to prod(levels) - 1."""
        levels = self._levels(z)
        digits = (z * (levels // 2) + levels // 2).round().long()
        basis = torch.cumprod(torch.tensor([1, *self.levels[:-1]], device=z.device), 0)
        return (digits * basis[:, None, None]).sum(1)

    def _levels(self, like: Tensor) -> Float[Tensor, "levels 1 1"]:
        return torch.tensor(self.levels, dtype=like.dtype, device=like.device)[:, None, None]
