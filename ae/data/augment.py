"""Augmentation of whole batches on the device, different for every image."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from ae.utils.validation import AtLeast0, Range, Settings

Acute = Annotated[float, Range(0.0, 90.0, is_high_open=True)]
_KNOTS = 5  # along each axis, between which an elastic deformation is smooth


@dataclass(frozen=True)
class Augment(Settings):
    """Small random motions of training images, different for every image."""

    shift: AtLeast0[int] = 0  # largest shift along each axis, in whole pixels: a shift alone blurs nothing
    rotate: AtLeast0[float] = 0.0  # largest rotation either way, in degrees
    scale: AtLeast0[float] = 0.0  # largest growth or shrinking: 0.1 is from 1/1.1 to 1.1 of the size
    shear: Acute = 0.0  # largest slant of upright lines either way, in degrees
    elastic: AtLeast0[float] = 0.0  # standard deviation of a smooth deformation over pixels (Simard et al. 2003)

    @property
    def moves(self) -> bool:
        """Whether it does anything."""
        return any(vars(self).values())

    def draw(self, count: int, generator: Generator | None = None) -> Float[Tensor, "numbers count"]:
        """Draw the parameters of `apply` for `count` images, uniform within the limits, the elastic deformation normal:

        a row each of angle and slant (radians), of log growth, of how far down and right (pixels), and its knots'.
        """

        def uniform(largest: float) -> Tensor:
            return (torch.rand(count, generator=generator) * 2 - 1) * largest

        turn = uniform(math.radians(self.rotate))
        shift = torch.randint(-self.shift, self.shift + 1, (2, count), generator=generator).float()
        drawn = [turn, *shift.unbind()]
        if self.scale or self.shear or self.elastic:
            drawn += [uniform(math.log1p(self.scale)), uniform(math.radians(self.shear))]
        if self.elastic:
            drawn += (self.elastic * torch.randn(2 * _KNOTS**2, count, generator=generator)).unbind()
        return torch.stack(drawn)

    def apply(self, images: Float[Tensor, "b c h w"], drawn: Float[Tensor, "numbers b"]) -> Float[Tensor, "b c h w"]:
        """Images [b c h w] -> the same moved as was drawn for each; what comes in from outside is 0."""
        if not self.moves or not len(images):
            return images
        angle, down, right, *others = drawn.to(images.device, non_blocking=True)
        if not others:
            return move(images, angle, down, right)
        log_growth, slant, *knots = others
        field = None
        if knots:
            deviation = _deviation(images, -2) * _deviation(images, -1)
            field = torch.stack(knots, dim=1).unflatten(1, (2, _KNOTS, _KNOTS)) / deviation
        return move(images, angle, down, right, log_growth.exp(), slant, field)

    def __call__(
        self, images: Float[Tensor, "b c h w"], generator: Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images [b c h w] -> the same moved at random; without `generator`, by PyTorch's own."""
        return self.apply(images, self.draw(len(images), generator)) if self.moves else images


def _deviation(images: Float[Tensor, "b c h w"], axis: int) -> Float[Tensor, ""]:
    """The standard deviation over the pixels of an axis of what is interpolated between knots of deviation 1.

    Between knots independent values average out: with w the weights of a pixel's knots, its variance is the sum of w^2.
    """
    knots = torch.eye(_KNOTS, device=images.device)[None, :, :, None]
    weights = F.interpolate(knots, size=(images.shape[axis], 1), mode="bicubic", align_corners=True)  # [1 knots n 1]
    return weights.square().sum(1).mean().sqrt()


def move(
    images: Float[Tensor, "b c h w"],
    angle: Float[Tensor, " b"],
    down: Float[Tensor, " b"],
    right: Float[Tensor, " b"],
    growth: Float[Tensor, " b"] | None = None,
    slant: Float[Tensor, " b"] | None = None,
    knots: Float[Tensor, "b 2 rows columns"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Each image grown, slanted, turned about its centre, then moved by pixels; bilinear.

    `angle` in radians, counter-clockwise, and so is the `slant` of what was upright; `knots` how many pixels right and
    down of its place each knot of an even grid is taken from, bicubic between them. grid_sample asks where each pixel
    comes from, in coordinates of -1 to 1 along each axis: so the map below is the inverse motion, and its terms that
    mix the axes carry the aspect ratio.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos(), angle.sin()
    tangent = torch.zeros_like(angle) if slant is None else slant.tan()
    smaller = torch.ones_like(angle) if growth is None else 1 / growth
    x, y = -2 * right / width, -2 * down / height
    aspect = height / width
    xx, xy = smaller * (cos - tangent * sin), -smaller * (sin + tangent * cos) * aspect
    yx, yy = smaller * sin / aspect, smaller * cos
    theta = torch.stack(
        [torch.stack([xx, xy, xx * x + xy * y], dim=-1), torch.stack([yx, yy, yx * x + yy * y], dim=-1)], dim=1
    )  # [b 2 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # [b h w 2]
    if knots is not None:
        pixels = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + torch.stack([pixels[:, 0] * (2 / width), pixels[:, 1] * (2 / height)], dim=-1)
    return F.grid_sample(images, grid, align_corners=False)
