"""Discrete bottlenecks: every place of the features becomes one of a number of codes."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, AtLeast2, BelowOne, Positive, checked_arguments

_SMOOTHING = 1e-5  # of an equal share, added to the share of each code
_DISTANCES = 2**24  # between vectors and codes, held in memory at once
_SMALL = 1e-10  # of the largest weight in a draw, so that there is something to draw
_LARGEST_FSQ = 2**24  # codes, of which the use can be counted


def _sizes(features: Float[Tensor, "b c h w"]) -> dict[str, int]:
    b, _, h, w = features.shape
    return {"b": b, "h": h, "w": w}


def _use(index: Int64[Tensor, "..."], codes: int) -> dict[str, Tensor]:
    """Perplexity of the codes' use in the batch, and the fraction of them that it uses."""
    count = distributed.summed(_counted(index.flatten(), codes))
    share = count / count.sum().clamp(min=1)
    return {"perplexity": torch.special.entr(share).sum().exp(), "codes_used": (count > 0).float().mean()}


def _counted(index: Int64[Tensor, " n"], codes: int) -> Float[Tensor, " codes"]:
    """How often each code occurs."""
    count = torch.zeros(codes, device=index.device)
    return count.index_add_(0, index, torch.ones_like(index, dtype=count.dtype))


class VectorQuantized(nn.Module):
    """Each place of the features [b channels h w] is replaced by the nearest vector of a codebook (VQ-VAE).

    van den Oord et al. 2017: gradients pass straight through; the penalty is commitment * |features - code|^2, the mean
    over places and channels; the codebook follows the features by moving averages (appendix A.1), in training alone.
    The shares have Laplace smoothing, as in Sonnet, relative to an equal share: it is the same for a codebook of any
    size. It begins with vectors of the first batch that are far from each other (k-means++); a code that has gone out
    of use, with less than `revive` of an equal share, begins again as a vector of the batch at hand. In several
    processes all have the same codebook, which follows all of the batch. `stats`: perplexity, exp of the entropy of the
    codes' use in the batch; and the fraction used.
    """

    codebook: Tensor
    share: Tensor
    total: Tensor
    begun: Tensor

    @checked_arguments
    def __init__(
        self,
        channels: Positive[int],
        codes: Positive[int] = 512,
        decay: BelowOne = 0.99,
        commitment: AtLeast0[float] = 0.25,
        revive: BelowOne = 0.05,
    ) -> None:
        super().__init__()
        self.channels, self.codes = channels, codes
        self.decay, self.commitment, self.revive = decay, commitment, revive
        self.register_buffer("codebook", torch.randn(codes, channels))
        self.register_buffer("share", torch.full((codes,), 1 / codes))  # of the places, in the moving average
        self.register_buffer("total", self.codebook / codes)  # of their features
        self.register_buffer("begun", torch.tensor(False))
        self._has_begun = False  # as far as this process knows

    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z [b channels h w] of the codebook's vectors."""
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise InputError(f"features must be [b {self.channels} h w], got {list(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            vectors = rearrange(features.float(), "b c h w -> (b h w) c")
            if self.training:
                self._begin(vectors)
            index = self.nearest(vectors)
            nearest = self.codebook[index]
            if self.training:
                self._follow(vectors.detach(), index)
        code = rearrange(nearest, "(b h w) c -> b c h w", **_sizes(features))
        penalty = self.commitment * (features - code).square().flatten(1).mean(1)
        z = features + (code - features).detach()
        return Code(
            z=z,
            mean=z,
            rate=torch.zeros_like(penalty),
            penalty=penalty,
            stats=_use(index, self.codes),
        )

    def expand(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """z [b channels h w] -> the same."""
        return z

    def project(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """z [b channels h w] -> the nearest vector of the codebook at each place."""
        return self.lookup(self.indices(z))

    @torch.no_grad()
    def nearest(self, vectors: Float[Tensor, "n c"]) -> Int64[Tensor, " n"]:
        """The index of the code that is nearest to each vector.

        By |code|^2 - 2 vector . code from the codebook's mean, in float64 where the device has it: in float32 these
        terms hide the distances between vectors that are far from the origin, or from each other.
        """
        dtype = torch.float32 if vectors.device.type == "mps" else torch.float64
        codes = self.codebook.to(dtype)
        centre = codes.mean(0)
        codes = codes - centre
        squared = codes.square().sum(1)
        parts = (vectors.to(dtype) - centre).split(max(1, _DISTANCES // self.codes))
        return torch.cat([torch.addmm(squared, part, codes.T, alpha=-2).argmin(1) for part in parts])

    def indices(self, features: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b h w"]:
        """The index of each place's code."""
        index = self.nearest(rearrange(features, "b c h w -> (b h w) c"))
        return rearrange(index, "(b h w) -> b h w", **_sizes(features))

    def lookup(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """The codebook's vectors of these indices: z, for `expand` and the decoder."""
        return rearrange(self.codebook[index], "b h w c -> b c h w")

    @torch.no_grad()
    def _begin(self, vectors: Float[Tensor, "n c"]) -> None:
        """Start from vectors of the first batch, far from each other; the device is asked for that once a process."""
        if self._has_begun or not distributed.whole(len(vectors)):
            return
        self._has_begun = True
        if not bool(self.begun):
            start = _far_apart(vectors, self.codes) if len(vectors) else self.codebook  # which is another process's
            self.codebook.copy_(distributed.from_first(start))
            self.total.copy_(self.codebook / self.codes)
            self.begun.fill_(True)

    @torch.no_grad()
    def _follow(self, vectors: Float[Tensor, "n c"], index: Int64[Tensor, " n"]) -> None:
        """The moving averages of how many places each code has and of their features; the code is their quotient."""
        count = distributed.summed(_counted(index, self.codes))
        total = distributed.summed(torch.zeros_like(self.total).index_add_(0, index, vectors))
        places = count.sum().clamp(min=1)
        self.share.lerp_(count / places, 1 - self.decay)
        self.total.lerp_(total / places, 1 - self.decay)
        smoothed = (self.share + _SMOOTHING / self.codes) / (1 + _SMOOTHING / self.share.sum())
        self.codebook.copy_(self.total / smoothed[:, None])
        unused = self.share * self.codes < self.revive
        new = self._some(vectors)
        self.codebook.copy_(torch.where(unused[:, None], new, self.codebook))
        self.total.copy_(torch.where(unused[:, None], new / self.codes, self.total))
        self.share.copy_(torch.where(unused, 1 / self.codes, self.share))

    def _some(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "codes c"]:
        """Random vectors of the batch, as many as there are codes; the same ones in all processes."""
        pick = torch.randint(max(len(vectors), 1), (self.codes,), device=vectors.device)
        found = vectors[pick] if len(vectors) else self.codebook
        return distributed.from_first(found)


def _far_apart(vectors: Float[Tensor, "n c"], count: int) -> Float[Tensor, "count c"]:
    """Some of the vectors, each drawn in proportion to its squared distance from those that were drawn before.

    Arthur & Vassilvitskii 2007 (k-means++). Where as many are wanted as there are, all, and others again at random.
    """
    if count >= len(vectors):
        again = torch.randint(len(vectors), (count - len(vectors),), device=vectors.device)
        return torch.cat([vectors, vectors[again]])
    chosen = [vectors[torch.randint(len(vectors), (1,), device=vectors.device)]]
    distance = (vectors - chosen[0]).square().sum(1)
    for _ in range(count - 1):
        weights = (distance / distance.amax()).nan_to_num()  # of vectors that are all alike, 0 / 0
        chosen.append(vectors[torch.multinomial(weights.clamp(min=_SMALL), 1)])
        distance = torch.minimum(distance, (vectors - chosen[-1]).square().sum(1))
    return torch.cat(chosen)


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
        if math.prod(levels) > _LARGEST_FSQ:
            raise InputError(f"levels must make at most {_LARGEST_FSQ:,} codes, got {math.prod(levels):,}")
        self.channels, self.levels = channels, tuple(levels)
        self.reduce = nn.Conv2d(channels, len(levels), 1)
        self.restore = nn.Conv2d(len(levels), channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z [b len(levels) h w] in [-1, 1]."""
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise InputError(f"features must be [b {self.channels} h w], got {list(features.shape)}")
        numbers = self.reduce(features)
        with torch.autocast(features.device.type, enabled=False):
            z = self._quantized(numbers.to(torch.promote_types(numbers.dtype, torch.float32)))
        code = Code.deterministic(z)
        code.stats = _use(self.indices(z.detach()), math.prod(self.levels))
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
        return self.restore(z).relu()

    def indices(self, z: Float[Tensor, "b levels h w"]) -> Int64[Tensor, "b h w"]:
        """The index of each place's code, 0 to prod(levels) - 1."""
        levels = self._levels(z)
        digits = (z * (levels // 2) + levels // 2).round().long()
        basis = torch.cumprod(torch.tensor([1, *self.levels[:-1]], device=z.device), 0)
        return (digits * basis[:, None, None]).sum(1)

    def _levels(self, like: Tensor) -> Float[Tensor, "levels 1 1"]:
        return torch.tensor(self.levels, dtype=like.dtype, device=like.device)[:, None, None]
