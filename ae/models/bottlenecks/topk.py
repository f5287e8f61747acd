"""Sparse bottleneck: the k latents of largest magnitude."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.linear import Dense
from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments


class TopK(Dense):
    """`Dense` with all but the `k` latents of largest magnitude set to 0.

    Makhzani & Frey 2014 (k-sparse autoencoders), with magnitudes instead of values. Batch norm without scale and shift
    (Ioffe & Szegedy 2015) precedes the selection. Without this normalisation, most latents are never selected, get no
    gradient, and die. `stats`: `used`, the fraction of latents that are non-zero for an image of the batch.
    """

    @checked_arguments
    def __init__(self, in_shape: Sequence[Positive[int]], latent: Positive[int], k: Positive[int]) -> None:
        super().__init__(in_shape, latent)
        if k > latent:
            raise InputError(f"k must be at most the {latent} latents, got {k}")
        self.k = k
        self.norm = nn.BatchNorm2d(latent, affine=False)

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent], `k` latents of each image non-zero."""
        check_shape("features", features, self.in_shape)
        z = self.project(self._normalised(self.project_in(features.flatten(1))))
        code = Code.deterministic(z)
        use_counts = global_batch.all_sum((z.detach() != 0).sum(0))
        code.stats["used"] = (use_counts > 0).float().mean()
        return code

    def project(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """z [b latent] -> z with all but the `k` latents of largest magnitude set to 0."""
        selected = z.abs().topk(self.k, dim=1).indices
        return torch.zeros_like(z).scatter(1, selected, z.gather(1, selected))

    def _normalised(self, dense: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """Batch norm; a global batch of fewer than two images is normalised by the running statistics."""
        x = dense[:, :, None, None]
        if global_batch.global_count(len(x)) < 2:
            x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            x = self.norm(x)
        return x[:, :, 0, 0]
