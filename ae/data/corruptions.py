"""Corruptions: clean images -> (corrupted images, mask of the pixels that the loss is taken on; None: all)."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from ae.utils.seeding import normal_like
from ae.utils.validation import AtLeast0, Fraction, Positive, Settings


@dataclass(frozen=True)
class GaussianNoise(Settings):
    """Adds noise to every pixel, and keeps the image in [0, 1] (Vincent et al. 2010, section 3.3)."""

    std: AtLeast0[float] = 0.3  # standard deviation of the noise

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Images [b c h w] in [0, 1] -> the same with noise; the loss is on all pixels."""
        return (images + self.std * normal_like(images)).clamp(0, 1), None


@dataclass(frozen=True)
class SaltAndPepper(Settings):
    """Sets a fraction of the pixels, of all channels together, to 0 or 1 (Vincent et al. 2010, section 3.3)."""

    fraction: Fraction = 0.2  # of the pixels

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Images [b c h w] in [0, 1] -> the same with some pixels set; the loss is on all pixels."""
        drawn = torch.rand_like(images[:, :1])
        return torch.where(drawn < self.fraction, (drawn < self.fraction / 2).to(images.dtype), images), None


@dataclass(frozen=True)
class PatchMask(Settings):
    """Hides the same number of square patches, set to 0, in every image; the loss is on what is hidden.

    As masked autoencoders do (He et al. 2022), but for the hidden patches' being shown as black to a convolution.
    Patches at the right and lower edge are smaller where the image is no multiple of their size.
    """

    patch: Positive[int] = 4  # pixels, of a side
    fraction: Fraction = 0.5  # of the patches, rounded

    def __call__(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b 1 h w"]]:
        """Images [b c h w] -> the same with patches set to 0, and a mask [b 1 h w] that is true there."""
        height, width = images.shape[-2:]
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        drawn = torch.rand(len(images), rows * columns, device=images.device)
        hidden = drawn.argsort(1).argsort(1) < round(self.fraction * rows * columns)
        grid = rearrange(hidden, "b (r c) -> b 1 r c", r=rows)
        mask = repeat(grid, "b 1 r c -> b 1 (r p) (c q)", p=self.patch, q=self.patch)[..., :height, :width]
        return images.masked_fill(mask, 0), mask
