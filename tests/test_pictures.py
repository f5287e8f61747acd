import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ae import Autoencoder, Images, Splits
from ae.pictures import reconstruction_picture


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
    digit = digits.train.pixels[0, 0].numpy()
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
