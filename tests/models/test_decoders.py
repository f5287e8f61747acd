import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ae import DeconvDecoder, InputError


class PlainDeconv(nn.Module):
    """Plain deconvolutional network, with output padding as an argument."""

    def __init__(self, output_padding: int) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=output_padding)
        self.deconv2 = nn.ConvTranspose2d(32, 1, 3, stride=2, padding=1, output_padding=output_padding)

    def forward(self, features: Tensor) -> Tensor:
        return self.deconv2(F.relu(self.deconv1(features)))


def copy_decoder(plain: PlainDeconv, decoder: DeconvDecoder) -> None:
    decoder.stages[0].get_submodule("deconv").load_state_dict(plain.deconv1.state_dict())
    decoder.stages[1].load_state_dict(plain.deconv2.state_dict())


def test_deconv_decoder_equals_plain_network() -> None:
    plain, decoder = PlainDeconv(output_padding=1), DeconvDecoder()
    copy_decoder(plain, decoder)
    features = torch.randn(5, 64, 7, 7)
    torch.testing.assert_close(decoder(features), plain(features))


def test_deconv_decoder_output_padding_gives_28_pixels() -> None:
    """A stride-2 convolution maps 13 and 14 rows to 7; `output_padding` selects the size of the inverse."""
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    assert conv(torch.rand(1, 1, 13, 13)).shape == conv(torch.rand(1, 1, 14, 14)).shape == (1, 1, 7, 7)
    features = torch.randn(2, 64, 7, 7)
    assert PlainDeconv(output_padding=0)(features).shape == (2, 1, 25, 25)  # (7-1)*2-2+3 = 13, (13-1)*2-2+3 = 25
    assert DeconvDecoder()(features).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("channels", [(5,), (5, 4), (5, 4, 3), (5, 4, 3, 2)])
def test_deconv_decoder_doubles_size_per_stage(channels: tuple[int, ...]) -> None:
    decoder = DeconvDecoder(3, channels, norm=True)
    assert decoder(torch.randn(2, 5, 3, 2)).shape == (2, 3, 3 * decoder.stride, 2 * decoder.stride)
    assert decoder.stride == 2 ** len(channels)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("shape", [(2, 32, 7, 7), (64, 7, 7), (2, 3136)])
def test_deconv_decoder_rejects_wrong_feature_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"features must be \[b 64 h w\], got \["):
        DeconvDecoder()(torch.randn(shape))


@pytest.mark.parametrize(("out_channels", "channels"), [(1, ()), (0, (4,)), (1, (4, -1))])
def test_deconv_decoder_rejects_invalid_arguments(out_channels: int, channels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"at least one stage|must be positive"):
        DeconvDecoder(out_channels, channels)
