"""Augmentation of whole batches on the device, different for every image."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from ae.errors import InputError


@dataclass(frozen=True)
class Augment:
    """Small random shifts and rotations of training images, different for every image."""

    shift: int = 0  # largest shift along each axis, in whole pixels: a shift alone blurs nothing
    rotate: float = 0.0  # largest rotation either way, in degrees

    def __post_init__(self) -> None:
        if not (self.shift >= 0 and self.rotate >= 0):
            raise InputError(f"shift and rotate must be 0 or more, got {self.shift} and {self.rotate}")

    @property
    def moves(self) -> bool:
        """Whether it does anything."""
        return self.shift > 0 or self.rotate > 0

    def draw(self, count: int, generator: Generator) -> Float[Tensor, "3 count"]:
        """For each of `count` images an angle (radians) and how far down and right (pixels), uniform in the limits."""
        turn = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(self.rotate)
        shift = torch.randint(-self.shift, self.shift + 1, (2, count), generator=generator).float()
        return torch.stack([turn, *shift])

    def apply(self, images: Float[Tensor, "b c h w"], drawn: Float[Tensor, "3 b"]) -> Float[Tensor, "b c h w"]:
        """Images [b c h w] -> the same moved as was drawn for each; what comes in from outside is 0."""
        return move(images, *drawn.to(images.device)) if self.moves and len(images) else images

    def __call__(self, images: Float[Tensor, "b c h w"], generator: Generator) -> Float[Tensor, "b c h w"]:
        """Images [b c h w] -> the same moved at random, uniformly in the limits."""
        return self.apply(images, self.draw(len(images), generator))


def move(
    images: Float[Tensor, "b c h w"], angle: Float[Tensor, " b"], down: Float[Tensor, " b"], right: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Each image rotated about its centre by `angle` (radians, counter-clockwise), then moved by pixels; bilinear.

    grid_sample asks where each pixel comes from, in coordinates of -1 to 1 along each axis: so the map below is the
    inverse motion, and its terms that mix the axes carry the aspect ratio.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos(), angle.sin()
    x, y = -2 * right / width, -2 * down / height
    aspect = height / width
    theta = torch.stack(
        [
            torch.stack([cos, -sin * aspect, cos * x - sin * aspect * y], dim=-1),
            torch.stack([sin / aspect, cos, sin / aspect * x + cos * y], dim=-1),
        ],
        dim=1,
    )  # [b 2 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
