"""Vector quantisation: each position of the features becomes the nearest vector of a codebook."""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.functional import at_least_float32
from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.tokens import check_channels, or_tokens
from ae.models.bottlenecks.usage import code_counts, code_usage
from ae.utils import global_batch
from ae.utils.validation import AtLeast0, BelowOne, Positive, checked_arguments

_SMOOTHING = 1e-5  # Laplace smoothing, relative to a uniform frequency
_DISTANCES = 2**24  # distances held in memory at once
_SMALL = 1e-10  # smallest sampling weight, relative to the largest, so that the sum is positive


class VectorQuantizer(nn.Module):
    """Replace each vector of a map [b channels h w] or of tokens [b n channels] by the nearest of a codebook (VQ-VAE).

    van den Oord et al. 2017, with straight-through gradients. Auxiliary loss: `commitment`, the factor of that name *
    |features - code|^2, the mean over positions and channels. In training, the codebook is updated by exponential
    moving averages (appendix A.1). Cluster sizes have Laplace smoothing, as in Sonnet, relative to a uniform frequency,
    so that its effect does not depend on the codebook's size. The codebook is initialised by k-means++ on the first
    batch. A code whose frequency falls below `dead_code_threshold` times the uniform frequency is re-initialised with a
    random vector of the current batch. In several processes the codebook is the same in each, updated by the global
    batch, as it is where a batch is trained on in parts. `stats` are the batch's `perplexity` and `codes_used`
    (`code_usage`).
    """

    codebook: Tensor
    ema_cluster_size: Tensor
    ema_embed_sum: Tensor
    initialized: Tensor

    @checked_arguments
    def __init__(
        self,
        channels: Positive[int],
        codebook_size: Positive[int] = 512,
        decay: BelowOne = 0.99,
        commitment: AtLeast0[float] = 0.25,
        dead_code_threshold: BelowOne = 0.05,
    ) -> None:
        super().__init__()
        self.channels, self.codebook_size = channels, codebook_size
        self.decay, self.commitment, self.dead_code_threshold = decay, commitment, dead_code_threshold
        size = codebook_size
        self.register_buffer("codebook", torch.randn(size, channels))
        self.register_buffer("ema_cluster_size", torch.full((size,), 1 / size))  # frequency of each code
        self.register_buffer("ema_embed_sum", self.codebook / size)  # mean over positions of the features of each code
        self.register_buffer("initialized", torch.tensor(False))
        self._earlier_parts: tuple[Tensor, Tensor]  # counts and sums of a batch that is trained on in parts
        self._is_initialized = False  # `initialized` as known on the host, to avoid a synchronisation in each step

    @or_tokens
    def forward(self, features: Float[Tensor, "b c h w"]) -> Code:
        """Features [b channels h w] -> Code with z [b channels h w] of the codebook's vectors."""
        check_channels(features, self.channels)
        with torch.autocast(features.device.type, enabled=False):
            vectors = rearrange(at_least_float32(features), "b c h w -> (b h w) c")
            if self.training:
                self._initialize(vectors)
            index = self.nearest(vectors)
            nearest = self.codebook[index]
            if self.training:
                self._update_codebook(vectors.detach(), index)
        b, _, h, w = features.shape
        code = rearrange(nearest, "(b h w) c -> b c h w", b=b, h=h, w=w)
        loss = self.commitment * (features - code).square().flatten(1).mean(1)
        z = features + (code - features).detach()
        return Code(
            z=z,
            mean=z,
            rate=torch.zeros_like(loss),
            aux={"commitment": loss},
            indices=rearrange(index, "(b h w) -> b h w", b=b, h=h, w=w),
            stats=code_usage(index, self.codebook_size),
        )

    @or_tokens
    def expand(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return z [b channels h w] unchanged."""
        return z

    @or_tokens
    def project(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """z [b channels h w] -> the nearest vector of the codebook at each position."""
        return self.lookup(self.indices(z))

    @torch.no_grad()
    def nearest(self, vectors: Float[Tensor, "n c"]) -> Int64[Tensor, " n"]:
        """Index of the nearest code of each vector.

        Computed as |code|^2 - 2 vector . code, relative to the codebook's mean, in float64 where the device has it: in
        float32, cancellation hides the distances between vectors far from the origin or from each other.
        """
        dtype = torch.float32 if vectors.device.type == "mps" else torch.float64
        codes = self.codebook.to(dtype)
        centre = codes.mean(0)
        codes = codes - centre
        squared = codes.square().sum(1)
        chunks = (vectors.to(dtype) - centre).split(max(1, _DISTANCES // self.codebook_size))
        return torch.cat([torch.addmm(squared, chunk, codes.T, alpha=-2).argmin(1) for chunk in chunks])

    @or_tokens
    def indices(self, z: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b h w"]:
        """Index of the nearest code at each position of z, or of features."""
        b, _, h, w = z.shape
        index = self.nearest(rearrange(z, "b c h w -> (b h w) c"))
        return rearrange(index, "(b h w) -> b h w", b=b, h=h, w=w)

    @or_tokens
    def lookup(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """The codebook's vectors of these indices: z [b channels h w]."""
        return rearrange(self.codebook[index], "b h w c -> b c h w")

    @torch.no_grad()
    def _initialize(self, vectors: Float[Tensor, "n c"]) -> None:
        """Initialise the codebook by k-means++ on the first batch; `initialized` is read once a process."""
        if self._is_initialized or not global_batch.global_count(len(vectors)):
            return
        self._is_initialized = True
        if not bool(self.initialized):
            start = _kmeans_plus_plus(vectors, self.codebook_size) if len(vectors) else self.codebook
            self.codebook.copy_(global_batch.broadcast(start))  # from the first process that has vectors
            self.ema_embed_sum.copy_(self.codebook / self.codebook_size)
            self.initialized.fill_(True)

    @torch.no_grad()
    def _update_codebook(self, vectors: Float[Tensor, "n c"], index: Int64[Tensor, " n"]) -> None:
        """Update the moving averages of cluster sizes and sums, the codebook as their quotient, and dead codes."""
        size = self.codebook_size
        count = code_counts(index, size).to(vectors.dtype)
        total = torch.zeros_like(self.ema_embed_sum).index_add_(0, index, vectors)
        if not global_batch.is_first_part():
            count, total = count + self._earlier_parts[0], total + self._earlier_parts[1]
        if not global_batch.is_last_part():
            self._earlier_parts = count, total
            return
        count, total = global_batch.all_sum(count), global_batch.all_sum(total)
        positions = count.sum().clamp(min=1)
        self.ema_cluster_size.lerp_(count / positions, 1 - self.decay)
        self.ema_embed_sum.lerp_(total / positions, 1 - self.decay)
        smoothed = (self.ema_cluster_size + _SMOOTHING / size) / (1 + _SMOOTHING / self.ema_cluster_size.sum())
        self.codebook.copy_(self.ema_embed_sum / smoothed[:, None])
        dead = self.ema_cluster_size * size < self.dead_code_threshold
        new = self._random_vectors(vectors)
        self.codebook.copy_(torch.where(dead[:, None], new, self.codebook))
        self.ema_embed_sum.copy_(torch.where(dead[:, None], new / size, self.ema_embed_sum))
        self.ema_cluster_size.copy_(torch.where(dead, 1 / size, self.ema_cluster_size))

    def _random_vectors(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "codes c"]:
        """Random vectors of the batch, as many as there are codes; the same in all processes."""
        pick = torch.randint(max(len(vectors), 1), (self.codebook_size,), device=vectors.device)
        chosen = vectors[pick] if len(vectors) else self.codebook
        return global_batch.broadcast(chosen)


def _kmeans_plus_plus(vectors: Float[Tensor, "n c"], count: int) -> Float[Tensor, "count c"]:
    """`count` of the vectors, each drawn in proportion to its squared distance from the nearest one drawn before.

    Arthur & Vassilvitskii 2007. If `count` exceeds the number of vectors: all of them, and random ones again.
    """
    if count >= len(vectors):
        again = torch.randint(len(vectors), (count - len(vectors),), device=vectors.device)
        return torch.cat([vectors, vectors[again]])
    chosen = [vectors[torch.randint(len(vectors), (1,), device=vectors.device)]]
    distance = (vectors - chosen[0]).square().sum(1)
    for _ in range(count - 1):
        weights = (distance / distance.amax()).nan_to_num()  # 0 / 0 where all vectors are equal
        chosen.append(vectors[torch.multinomial(weights.clamp(min=_SMALL), 1)])
        distance = torch.minimum(distance, (vectors - chosen[-1]).square().sum(1))
    return torch.cat(chosen)
