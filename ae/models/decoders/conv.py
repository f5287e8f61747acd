"""Convolutional decoder: stages of transposed convolutions."""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_channels, checked_arguments


class DeconvDecoder(nn.Module):
    """Stages of transposed conv 3x3 - (batch norm) - ReLU, each doubling height and width.

    Features [b channels[0] h w] -> pixel logits [b out_channels h*stride w*stride], stride = 2**stages. The last
    stage has no norm and no ReLU. Raises InputError for a wrong number of channels.

    A transposed convolution gives (h-1)*stride - 2*padding + kernel + output_padding rows (Dumoulin & Visin 2016,
    relationship 14). With kernel 3, stride 2 and padding 1, output_padding=1 doubles 7 to 14 to 28; without output
    padding, 7 becomes 13, then 25.
    """

    @checked_arguments
    def __init__(
        self, out_channels: Positive[int] = 1, channels: Sequence[Positive[int]] = (64, 32), norm: bool = False
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("a decoder needs at least one stage, got channels=()")
        self.out_channels = out_channels
        self.channels = tuple(channels)
        self.norm = norm
        self.stride = 2 ** len(channels)
        *inner, last = zip(self.channels, (*self.channels[1:], out_channels), strict=True)
        self.stages = nn.ModuleList([*(_stage(c_in, c_out, norm) for c_in, c_out in inner), _deconv(*last)])

    def forward(self, features: Float[Tensor, "b features fh fw"]) -> Float[Tensor, "b c h w"]:
        """Features -> pixel logits; their sigmoid is the image."""
        check_channels("features", features, self.channels[0])
        x = features  # 28x28: [b 64 7 7]
        for stage in self.stages:
            x = stage(x)  # [b 32 14 14], [b 1 28 28]
        return x


def _stage(c_in: int, c_out: int, norm: bool) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](deconv=_deconv(c_in, c_out))
    if norm:
        layers["norm"] = nn.BatchNorm2d(c_out)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def _deconv(c_in: int, c_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
