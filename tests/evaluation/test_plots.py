"""Pictures, pixel by pixel, of models with known outputs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ae import Autoencoder, Code, Identity, Images, InputError, Splits
from ae.evaluation.plots import (
    _titled,
    code_picture,
    drawn,
    metric_line,
    pair_pictures,
    principal_components,
    reconstruction_picture,
)
from ae.tracking.media import is_picture, png
from tests.helpers.held import held


class Brighter(nn.Module):
    """A decoder that returns the image, with dark pixels brighter by 0.25."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z < 0.5, z + 0.25, z).logit(1e-6)


def model() -> Autoencoder:
    model = Autoencoder(nn.Identity(), Brighter())
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return model


def test_reconstruction_picture_shows_originals_reconstructions_and_signed_errors(digits: Splits) -> None:
    picture = np.asarray(reconstruction_picture(model(), digits.train, count=3))
    scale, left, top, tile = 3, 118, 40, 28 * 3 + 6
    original, reconstruction, error = (
        picture[top + row * tile :, left:][: 28 * scale : scale, : 28 * scale : scale] for row in range(3)
    )
    digit = held(digits.train).pixels[0, 0].numpy()
    assert (original == digit[..., None]).all()
    dark = digit < 128
    assert (abs(reconstruction[dark].astype(int) - digit[dark, None] - 64) <= 1).all()
    assert (error[~dark] == 255).all()  # white: no error
    assert (error[dark] == (255, 0, 0)).all()  # red: a quarter too bright


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 40), (100, 30), (1, 3000), (3000, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_reconstruction_picture_takes_any_size_and_few_images(size: tuple[int, int], channels: int) -> None:
    pixels = torch.zeros(2, channels, *size, dtype=torch.uint8)
    picture = reconstruction_picture(model(), Images(pixels, torch.tensor([0, -1]), ("a",)), count=14)
    assert isinstance(picture, Image.Image)
    assert max(picture.size) >= 64
    assert max(picture.size) < 3000
    assert len(pair_pictures(model(), Images(pixels, torch.tensor([0, -1]), ("a",)))) == 2


def test_principal_components_equal_eigenvectors_of_the_covariance() -> None:
    points = torch.randn(300, 40, dtype=torch.float64) * torch.linspace(0.1, 5, 40) + 7
    points = points.float()
    points_2d, explained = principal_components(points)
    variances, directions = np.linalg.eigh(np.cov(points.numpy(), rowvar=False))
    expected = (points.numpy() - points.numpy().mean(0)) @ directions[:, [-1, -2]]
    for i in range(2):
        sign = np.sign((expected[:, i] * points_2d[:, i].numpy()).sum())
        np.testing.assert_allclose(points_2d[:, i].numpy(), sign * expected[:, i], atol=1e-2 * expected.std())
        assert explained[i] == pytest.approx(variances[-1 - i] / variances.sum(), rel=1e-3)
    assert torch.equal(points_2d, principal_components(points)[0])


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (3, 3)])
def test_principal_components_of_few_points_or_dimensions(shape: tuple[int, int]) -> None:
    points_2d, explained = principal_components(torch.ones(shape))
    assert points_2d.shape == (shape[0], 2)
    assert points_2d.isfinite().all()
    assert explained == [0, 0]


def test_code_picture_colours_dots_by_label(digits: Splits) -> None:
    images = Images(held(digits.train).pixels[:2], torch.tensor([0, -1]), ("a", "b"))
    picture = np.asarray(code_picture(model(), images))
    colours = {tuple(colour) for colour in picture[40:600, :560].reshape(-1, 3).tolist()}
    assert (166, 25, 25) in colours  # class a
    assert (200, 200, 200) in colours  # unlabelled
    assert not any(green > red + 50 for red, green, _ in colours)  # of class b there is none


def test_pair_pictures_show_image_and_reconstruction_side_by_side(digits: Splits) -> None:
    pairs = pair_pictures(model(), digits.train.select(slice(3)))
    assert len(pairs) == 3
    pair = np.asarray(pairs[1])
    assert pair.shape == (28, 56, 3)
    assert (pair[:, :28, 0] == held(digits.train).pixels[1, 0].numpy()).all()
    alone = Autoencoder(nn.Identity())
    alone.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    assert pair_pictures(alone, digits.train.select(slice(1)))[0].size == (28, 28)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, (255, 255, 255)), (2, (192, 192, 192)), (3, (255, 128, 0)), (4, (255, 128, 0)), (9, (255, 128, 0))],
)
def test_pictures_show_images_of_any_number_of_channels(channels: int, expected: tuple[int, int, int]) -> None:
    """2 channels are averaged; of 4 or more the first three are shown."""
    values = torch.tensor([255, 128, 0, 50, 50, 50, 50, 50, 50], dtype=torch.uint8)[:channels]
    images = Images(values[None, :, None, None].expand(1, -1, 4, 4).contiguous(), torch.tensor([0]), ("a",))
    assert reconstruction_picture(model(), images).getpixel((118 + 5, 40 + 5)) == expected
    assert pair_pictures(model(), images)[0].getpixel((1, 1)) == expected


def test_title_names_the_channels_shown() -> None:
    assert _titled("test images", 1) == _titled("test images", 3) == "test images"
    assert _titled("test images", 2) == "test images (mean of 2 channels)"
    assert _titled("", 4) == "first 3 of 4 channels as red, green, blue"


def test_reconstruction_picture_scales_large_images_down() -> None:
    pixels = torch.zeros(3, 1, 800, 600, dtype=torch.uint8)
    pixels[:, :, :400] = 255
    picture = reconstruction_picture(model(), Images(pixels, torch.zeros(3).long(), ("a",)))
    assert picture.size == (118 + 3 * (192 + 6) + 6, 40 + 3 * (256 + 6) + 44)
    assert picture.getpixel((130, 60)) == (255, 255, 255)
    assert picture.getpixel((130, 40 + 200)) == (0, 0, 0)


NAMES = ["a" * 300, "猫", "犬" * 50, "قطة", "two\nlines", "\t", "", "\udcff", "é", "🐈"]


def test_pictures_draw_any_class_names() -> None:
    classes = tuple(NAMES[i % len(NAMES)] for i in range(2500))
    images = Images(torch.zeros(12, 1, 4, 4, dtype=torch.uint8), torch.arange(12), classes)
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 2600))  # more classes than names
    classifies = Autoencoder(nn.Identity(), Brighter(), heads={"a": head})
    with torch.no_grad():
        head[1].bias[2550] = 1e3  # type: ignore[operator]
    assert isinstance(reconstruction_picture(classifies, images, title="猫 and\udcff"), Image.Image)
    assert isinstance(code_picture(classifies, images), Image.Image)


def test_reconstruction_picture_with_a_corruption_has_four_rows() -> None:
    def dark_half(images: Tensor) -> tuple[Tensor, None]:
        return images * (torch.arange(images.shape[3]) >= 2), None

    images = Images(torch.full((2, 1, 4, 4), 204, dtype=torch.uint8), torch.zeros(2).long(), ("a",))
    picture = reconstruction_picture(model(), images, corruption=dark_half)
    rows = [[picture.getpixel((118 + x, 40 + row * 70 + 5)) for x in (5, 60)] for row in range(4)]
    grey = (204, 204, 204)
    assert rows == [[grey, grey], [(0, 0, 0), grey], [(64, 64, 64), grey], [(0, 0, 255), (255, 255, 255)]]


def test_drawn_reports_failures_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Image.Image:
        raise ValueError("no\nway")

    picture = Image.new("RGB", (2, 3))
    assert drawn({"code": fail, "other": lambda: picture}) == {"other": picture}
    assert capsys.readouterr().err == "no picture code: no way\n"


def test_code_picture_refuses_codes_that_are_not_finite() -> None:
    broken = Autoencoder(nn.Identity(), Brighter(), Infinite())
    broken.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    with pytest.raises(InputError, match="some codes are NaN or infinite"):
        code_picture(broken, Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), ("a",)))


class Infinite(Identity):
    def forward(self, features: Tensor) -> Code:
        return Code.deterministic(features / 0)


def test_metric_line_has_the_metrics_of_a_title_in_order() -> None:
    metrics = {"accuracy": 0.99, "psnr": 27.136, "mse": 0.002, "ssim": 0.9}
    assert metric_line(metrics) == "mse 0.00200 per pixel,  psnr 27.14 dB,  accuracy 99.00%"
    del metrics["psnr"]
    assert metric_line(metrics) == "mse 0.00200 per pixel,  accuracy 99.00%"


def test_is_picture_recognises_pillow_images() -> None:
    picture = Image.new("RGB", (2, 3))
    assert is_picture(picture)
    assert not is_picture("picture.png")
    assert png(picture).startswith(b"\x89PNG")
