import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ae import Augment, InputError
from ae.data.augment import move
from ae.utils.seeding import generator


def zeros(n: int) -> Tensor:
    return torch.zeros(n)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, 1), (-2, 1), (3, -3), (40, 0)])
@pytest.mark.parametrize("size", [(28, 28), (7, 12)])
def test_move_shifts_pixels_and_fills_with_black(down: int, right: int, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    moved = move(images, zeros(2), torch.full((2,), float(down)), torch.full((2,), float(right)))
    framed = F.pad(images, (40, 40, 40, 40))
    expected = framed[..., 40 - down : 40 - down + size[0], 40 - right : 40 - right + size[1]]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 10, -35, 90, 180])
@pytest.mark.parametrize("size", [(9, 9), (8, 15)])
def test_move_rotates_like_scipy(degrees: float, size: tuple[int, int]) -> None:
    """Rotate counter-clockwise, then shift; scipy takes the source of each pixel."""
    images, angle, down, right = torch.rand(1, 2, *size), math.radians(degrees), 1.5, -0.75
    moved = move(images, torch.tensor([angle]), torch.tensor([down]), torch.tensor([right]))
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    y, x = y - down, x - right
    source = (math.sin(angle) * x + math.cos(angle) * y, math.cos(angle) * x - math.sin(angle) * y)
    coordinates = [c + (n - 1) / 2 for c, n in zip(source, size, strict=True)]
    for channel in range(2):
        expected = ndimage.map_coordinates(images[0, channel].numpy(), coordinates, order=1, mode="grid-constant")
        torch.testing.assert_close(moved[0, channel], torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_move_rotates_counter_clockwise() -> None:
    images = torch.rand(1, 1, 5, 5)
    turned = move(images, torch.tensor([math.pi / 2]), zeros(1), zeros(1))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_shift_is_of_whole_pixels_within_the_limit_per_image() -> None:
    dot = torch.zeros(500, 1, 9, 9)
    dot[:, :, 4, 4] = 1
    moved = Augment(shift=2)(dot, generator("shifts"))
    assert moved.amax((1, 2, 3)).min() > 0.999  # no interpolation
    places = [divmod(place, 9) for place in moved.flatten(1).argmax(1).tolist()]
    assert set(places) == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_rotate_is_within_the_limit_per_image() -> None:
    line = torch.zeros(200, 1, 41, 41)
    line[:, :, 20, 20:] = 1  # from the centre to the right
    moved = Augment(rotate=30.0)(line, generator("turns"))
    tip = moved[:, 0, :, 32:36].mean(2)  # height of the line, 13.5 pixels from the centre
    rows = torch.arange(41.0) - 20
    degrees = torch.rad2deg(torch.atan2(-(tip * rows).sum(1) / tip.sum(1), torch.tensor(13.5)))
    assert degrees.abs().max() < 31
    assert degrees.min() < -27
    assert degrees.max() > 27
    assert len(degrees.round(decimals=2).unique()) > 150


def test_augment_is_reproducible_and_the_identity_by_default() -> None:
    images, augment = torch.rand(20, 1, 8, 8), Augment(shift=2, rotate=20.0)
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))
    assert Augment()(images, generator(1)) is images
    assert augment(images[:0], generator(1)).shape == (0, 1, 8, 8)


def test_augment_keeps_images_in_range() -> None:
    moved = Augment(shift=3, rotate=45.0)(torch.ones(100, 1, 28, 28), generator(0))
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-6


@pytest.mark.parametrize("limit", [("shift", -1), ("rotate", -1.0), ("rotate", math.nan), ("elastic", -0.5)])
def test_augment_refuses_limits_out_of_range(limit: tuple[str, float]) -> None:
    name, value = limit
    with pytest.raises(InputError, match=rf"Augment\.{name} must be (0 or more|finite), got {value}"):
        Augment(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shear must be from 0 to less than 90, got 90"):
        Augment(shear=90.0)


@pytest.mark.parametrize("size", [(9, 9), (8, 15)])
@pytest.mark.parametrize("elastic", [False, True])
def test_move_transforms_like_scipy(size: tuple[int, int], elastic: bool) -> None:
    """Multiply the matrices of the transforms, and invert by numpy; the elastic displacement is constant."""
    images, scale, shear, angle, down, right = torch.rand(1, 2, *size), 1.3, 0.2, 0.5, 1.5, -0.75
    knots = torch.tensor([0.6, -1.1])[None, :, None, None].expand(1, 2, 4, 4) if elastic else None
    parameters = torch.tensor([[angle], [down], [right], [scale], [shear]])
    moved = move(images, parameters[0], parameters[1], parameters[2], parameters[3], parameters[4], knots)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # y points down
    shear_matrix = np.array([[1, math.tan(shear)], [0, 1]])
    backwards = np.linalg.inv(rotation @ shear_matrix * scale)
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    source = np.tensordot(backwards, np.stack([x - right, y - down]), axes=1)
    if elastic:
        source += np.array([0.6, -1.1])[:, None, None]
    coordinates = [c + (n - 1) / 2 for c, n in zip(source[::-1], size, strict=True)]
    for channel in range(2):
        expected = ndimage.map_coordinates(images[0, channel].numpy(), coordinates, order=1, mode="grid-constant")
        torch.testing.assert_close(moved[0, channel], torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_elastic_is_smooth_and_drawn_per_image() -> None:
    ramp = torch.arange(28.0).expand(1, 1, 28, 28) / 28
    augment = Augment(elastic=1.0)
    moved = augment(ramp.expand(50, 1, 28, 28), generator("elastic"))[..., 5:-5, 5:-5]
    displacements = (moved - ramp[..., 5:-5, 5:-5]) * 28  # pixels to the right
    assert 0.6 < displacements.std() < 1.2
    assert displacements.diff(dim=-1).abs().mean() < 0.35
    assert displacements.flatten(1).std(0).min() > 0.3


@pytest.mark.parametrize("size", [(28, 28), (20, 64), (40, 24)])
def test_elastic_has_the_stated_standard_deviation_over_pixels(size: tuple[int, int]) -> None:
    """Measure on images of row and column numbers, of which bilinear interpolation is exact."""
    places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    moved = Augment(elastic=0.2)(places.expand(2000, 2, *size), generator("elastic", *size))
    displacements = (moved - places)[..., 1:-1, 1:-1]  # border pixels may come from outside
    for down_or_right in displacements.unbind(1):
        assert down_or_right.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 4)])
def test_elastic_accepts_images_smaller_than_its_grid(size: tuple[int, int]) -> None:
    assert Augment(elastic=0.2)(torch.rand(5, 1, *size), generator(0)).isfinite().all()
