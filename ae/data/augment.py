"""Augmentation of batches on the device."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from ae.data.batch import Batch
from ae.utils.validation import AtLeast0, Range, Settings

Acute = Annotated[float, Range(0.0, 90.0, is_high_open=True)]
Mode = Literal["bilinear", "nearest"]
_KNOTS = 5  # of an elastic deformation, along each axis


@dataclass(frozen=True)
class Augment(Settings):
    """Random affine and elastic transforms, drawn independently for every image."""

    shift: AtLeast0[int] = 0  # largest shift along each axis, in whole pixels (no interpolation)
    rotate: AtLeast0[float] = 0.0  # largest rotation in either direction, in degrees
    scale: AtLeast0[float] = 0.0  # largest change of size: 0.1 scales by 1/1.1 to 1.1
    shear: Acute = 0.0  # largest angle of horizontal shear in either direction, in degrees
    elastic: AtLeast0[float] = 0.0  # standard deviation of elastic displacements, in pixels (Simard et al. 2003)

    @property
    def moves(self) -> bool:
        """Whether any transform is enabled."""
        return any(vars(self).values())

    def draw(self, count: int, generator: Generator | None = None) -> Float[Tensor, "rows count"]:
        """Draw the parameters of `apply` for `count` images: uniform within the limits, elastic displacements normal.

        Rows: rotation (radians), shift down and right (pixels); if any is enabled, log scale, shear (radians), knots.
        """

        def uniform(largest: float) -> Tensor:
            return (torch.rand(count, generator=generator) * 2 - 1) * largest

        rotation = uniform(math.radians(self.rotate))
        shift = torch.randint(-self.shift, self.shift + 1, (2, count), generator=generator).float()
        parameters = [rotation, *shift.unbind()]
        if self.scale or self.shear or self.elastic:
            parameters += [uniform(math.log1p(self.scale)), uniform(math.radians(self.shear))]
        if self.elastic:
            parameters += (self.elastic * torch.randn(2 * _KNOTS**2, count, generator=generator)).unbind()
        return torch.stack(parameters)

    def moved(self, batch: Batch, parameters: Float[Tensor, "rows b"]) -> Batch:
        """Transform a batch's images by `apply`, and with them the targets that have a value for each pixel.

        These take the value of the nearest pixel, and from outside the image none: -1 or NaN.
        """
        size = batch.images.shape[-2:]
        targets = dict(batch.targets)
        for name, target in targets.items():
            if target.ndim in (3, 4) and target.shape[-2:] == size:
                targets[name] = self._moved_map(target, parameters)
        return batch.with_images(self.apply(batch.images, parameters), targets)

    def _moved_map(self, target: Shaped[Tensor, "b *c h w"], parameters: Float[Tensor, "rows b"]) -> Tensor:
        channels = target if target.ndim == 4 else target[:, None]
        inside = self.apply(torch.ones_like(channels[:, :1], dtype=torch.float32), parameters, "nearest") > 0
        moved = self.apply(channels.float().nan_to_num(-1.0), parameters, "nearest")  # classes are exact in float32
        if target.is_floating_point():
            is_nan = self.apply(channels.isnan().float(), parameters, "nearest") > 0
            moved = torch.where(inside & ~is_nan, moved, torch.nan)
        else:
            moved = torch.where(inside, moved, -1).to(target.dtype)
        return moved if target.ndim == 4 else moved[:, 0]

    def apply(
        self, images: Float[Tensor, "b c h w"], parameters: Float[Tensor, "rows b"], mode: Mode = "bilinear"
    ) -> Float[Tensor, "b c h w"]:
        """Transform images [b c h w] by the parameters that `draw` gave; pixels from outside the image are 0."""
        if not self.moves or not len(images):
            return images
        angle, down, right, *others = parameters.to(images.device, non_blocking=True)
        if not others:
            return move(images, angle, down, right, mode=mode)
        log_scale, shear, *knots = others
        field = None
        if knots:
            deviation = _deviation(images, -2) * _deviation(images, -1)
            field = torch.stack(knots, dim=1).unflatten(1, (2, _KNOTS, _KNOTS)) / deviation
        return move(images, angle, down, right, log_scale.exp(), shear, field, mode)

    def __call__(
        self, images: Float[Tensor, "b c h w"], generator: Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Transform images [b c h w] at random; by default with PyTorch's global generator."""
        return self.apply(images, self.draw(len(images), generator)) if self.moves else images


def _deviation(images: Float[Tensor, "b c h w"], axis: int) -> Float[Tensor, ""]:
    """Standard deviation along an axis of values interpolated between independent knots of unit variance.

    Interpolation averages knots: with weights w of the knots of a pixel, the variance of the pixel is the sum of w^2.
    """
    knots = torch.eye(_KNOTS, device=images.device)[None, :, :, None]
    weights = F.interpolate(knots, size=(images.shape[axis], 1), mode="bicubic", align_corners=True)  # [1 knots n 1]
    return weights.square().sum(1).mean().sqrt()


def move(
    images: Float[Tensor, "b c h w"],
    angle: Float[Tensor, " b"],
    down: Float[Tensor, " b"],
    right: Float[Tensor, " b"],
    scale: Float[Tensor, " b"] | None = None,
    shear: Float[Tensor, " b"] | None = None,
    knots: Float[Tensor, "b 2 rows columns"] | None = None,
    mode: Mode = "bilinear",
) -> Float[Tensor, "b c h w"]:
    """Scale, shear, rotate about the centre, then shift each image, with bilinear interpolation or the nearest pixel.

    angle        counter-clockwise, radians
    down, right  pixels
    shear        counter-clockwise angle of vertical lines, radians
    knots        displacement (right, down) of the source pixel at the knots of a regular grid, pixels; bicubic between

    `grid_sample` takes source coordinates of -1 to 1 along each axis: the matrix below is the inverse transform, and
    its off-diagonal terms contain the aspect ratio.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos(), angle.sin()
    tangent = torch.zeros_like(angle) if shear is None else shear.tan()
    inverse_scale = torch.ones_like(angle) if scale is None else 1 / scale
    x, y = -2 * right / width, -2 * down / height
    aspect = height / width
    xx, xy = inverse_scale * (cos - tangent * sin), -inverse_scale * (sin + tangent * cos) * aspect
    yx, yy = inverse_scale * sin / aspect, inverse_scale * cos
    theta = torch.stack(
        [torch.stack([xx, xy, xx * x + xy * y], dim=-1), torch.stack([yx, yy, yx * x + yy * y], dim=-1)], dim=1
    )  # [b 2 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # [b h w 2]
    if knots is not None:
        pixels = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + torch.stack([pixels[:, 0] * (2 / width), pixels[:, 1] * (2 / height)], dim=-1)
    return F.grid_sample(images, grid, mode=mode, align_corners=False)
