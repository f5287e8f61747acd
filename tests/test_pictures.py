import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ae import Autoencoder, Images, Splits
from ae.pictures import (
    code_picture,
    is_picture,
    metric_line,
    pair_pictures,
    png,
    principal_components,
    reconstruction_picture,
)
from tests.held import held


class Brighter(nn.Module):
    """A decoder that gives the image back, brighter by a quarter where it was dark."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z < 0.5, z + 0.25, z).logit(1e-6)


def model() -> Autoencoder:
    model = Autoencoder(nn.Identity(), Brighter())
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return model


def test_shows_originals_reconstructions_and_signed_errors(digits: Splits) -> None:
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


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (100, 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_few_images(size: tuple[int, int], channels: int) -> None:
    pixels = torch.zeros(2, channels, *size, dtype=torch.uint8)
    picture = reconstruction_picture(model(), Images(pixels, torch.tensor([0, -1]), ("a",)), count=14)
    assert isinstance(picture, Image.Image)
    assert max(picture.size) >= 64


def test_principal_components_are_those_of_the_covariance() -> None:
    points = torch.randn(300, 40, dtype=torch.float64) * torch.linspace(0.1, 5, 40) + 7
    points = points.float()
    places, explained = principal_components(points)
    variances, directions = np.linalg.eigh(np.cov(points.numpy(), rowvar=False))
    expected = (points.numpy() - points.numpy().mean(0)) @ directions[:, [-1, -2]]
    for i in range(2):
        sign = np.sign((expected[:, i] * places[:, i].numpy()).sum())
        np.testing.assert_allclose(places[:, i].numpy(), sign * expected[:, i], atol=1e-2 * expected.std())
        assert explained[i] == pytest.approx(variances[-1 - i] / variances.sum(), rel=1e-3)
    assert torch.equal(places, principal_components(points)[0])


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (3, 3)])
def test_principal_components_of_few_points_or_dimensions(shape: tuple[int, int]) -> None:
    places, explained = principal_components(torch.ones(shape))
    assert places.shape == (shape[0], 2)
    assert places.isfinite().all()
    assert explained == [0, 0]


def test_the_code_has_a_dot_of_its_labels_colour_for_each_image(digits: Splits) -> None:
    images = Images(held(digits.train).pixels[:2], torch.tensor([0, -1]), ("a", "b"))
    picture = np.asarray(code_picture(model(), images))
    colours = {tuple(colour) for colour in picture[40:600, :560].reshape(-1, 3).tolist()}
    assert (166, 25, 25) in colours  # class a
    assert (200, 200, 200) in colours  # unlabelled
    assert not any(green > red + 50 for red, green, _ in colours)  # of class b there is none


def test_pairs_are_the_image_and_its_reconstruction_side_by_side(digits: Splits) -> None:
    pairs = pair_pictures(model(), digits.train.select(slice(3)))
    assert len(pairs) == 3
    pair = np.asarray(pairs[1])
    assert pair.shape == (28, 56, 3)
    assert (pair[:, :28, 0] == held(digits.train).pixels[1, 0].numpy()).all()
    alone = Autoencoder(nn.Identity())
    alone.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    assert pair_pictures(alone, digits.train.select(slice(1)))[0].size == (28, 28)


def test_small_things() -> None:
    assert metric_line({"accuracy": 0.99, "mse": 0.002, "ssim": 0.9}) == "mse 0.00200 per pixel,  accuracy 99.00%"
    picture = Image.new("RGB", (2, 3))
    assert is_picture(picture)
    assert not is_picture("picture.png")
    assert png(picture).startswith(b"\x89PNG")
