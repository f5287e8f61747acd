"""Corruptions: clean images -> (corrupted images, mask of the pixels in the loss; None: all pixels)."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from ae.utils.seeding import normal_like
from ae.utils.validation import AtLeast0, Fraction, Positive, Settings


@dataclass(frozen=True)
class GaussianNoise(Settings):
    """Add Gaussian noise to every pixel, and clamp to [0, 1] (Vincent et al. 2010, section 3.3)."""

    std: AtLeast0[float] = 0.3  # standard deviation of the noise

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Corrupt images [b c h w] in [0, 1]; the loss is on all pixels."""
        return (images + self.std * normal_like(images)).clamp(0, 1), None


@dataclass(frozen=True)
class SaltAndPepper(Settings):
    """Set a fraction of the pixels to 0 or 1 in all channels (Vincent et al. 2010, section 3.3)."""

    fraction: Fraction = 0.2  # of the pixels

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Corrupt images [b c h w] in [0, 1]; the loss is on all pixels."""
        uniform = torch.rand_like(images[:, :1])
        return torch.where(uniform < self.fraction, (uniform < self.fraction / 2).to(images.dtype), images), None


@dataclass(frozen=True)
class PatchMask(Settings):
    """Set random square patches to 0, the same number in every image; the loss is on the hidden patches.

    As in masked autoencoders (He et al. 2022), except that hidden patches are black input, not dropped tokens. Patches
    at the right and lower edges are smaller if the image size is not a multiple of the patch size.
    """

    patch: Positive[int] = 4  # side, in pixels
    fraction: Fraction = 0.5  # of the patches, rounded

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b 1 h w"]]:
        """Corrupt images [b c h w], and give a mask [b 1 h w] that is true on hidden pixels."""
        height, width = images.shape[-2:]
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        uniform = torch.rand(len(images), rows * columns, device=images.device)
        hidden = uniform.argsort(1).argsort(1) < round(self.fraction * rows * columns)
        grid = rearrange(hidden, "b (r c) -> b 1 r c", r=rows)
        mask = repeat(grid, "b 1 r c -> b 1 (r p) (c q)", p=self.patch, q=self.patch)[..., :height, :width]
        return images.masked_fill(mask, 0), mask
