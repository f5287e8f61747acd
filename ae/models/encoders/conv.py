"""Convolutional encoder: the trunk of a CNN."""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.decoders import DeconvDecoder
from ae.models.encoders.base import ImageEncoder, halving
from ae.utils.validation import Positive, checked_arguments


class ConvStage(nn.Sequential):
    """A stage of `ConvEncoder`: conv 3x3 - (batch norm) - max pool 2 - ReLU."""

    def pre_activation(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Output of all layers but the ReLU."""
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        return x


class ConvEncoder(ImageEncoder):
    """The trunk of a CNN: stages of conv 3x3 - (batch norm) - max pool 2 - ReLU, each halving height and width.

    Images [b in_channels h w] in [0, 1] -> features [b channels[-1] ceil(h/stride) ceil(w/stride)], stride = 2**stages.
    ReLU and max pool commute; after the pool, the ReLU has a quarter of the elements.
    Images are normalised by `mean` and `std` in the encoder, so that a reused encoder sees the same scale.
    Raises InputError for images of another shape, dtype or range.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: Positive[int] = 1,
        channels: Sequence[Positive[int]] = (32, 64),
        norm: bool = False,
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.feature_info = halving(channels)
        self.channels = tuple(channels)
        self.norm = norm
        self.stages = nn.ModuleList(
            _stage(c_in, c_out, norm) for c_in, c_out in zip((in_channels, *channels), channels, strict=False)
        )

    @classmethod
    def of_stages(
        cls, in_channels: int, channels: Sequence[int], depth: int | None = None, norm: bool = False
    ) -> "ConvEncoder":
        """Build an encoder with a stage for each of `channels`."""
        return cls(in_channels, channels, norm)

    def mirror(self, out_channels: int = 1) -> DeconvDecoder:
        """Build the decoder with these stages in reverse."""
        return DeconvDecoder(out_channels, self.channels[::-1], self.norm)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Images [b c h w] in [0, 1] -> the last stage's features."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Images [b c h w] in [0, 1] -> features of every stage; `feature_info` has their channels and strides."""
        x = self.normalised(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)  # 28x28: [b 32 14 14], [b 64 7 7]
        return features


def _stage(c_in: int, c_out: int, norm: bool) -> ConvStage:
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(c_in, c_out, 3, padding=1))
    if norm:
        layers["norm"] = nn.BatchNorm2d(c_out)
    layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)  # ceil_mode keeps an odd last row or column
    layers["relu"] = nn.ReLU()
    return ConvStage(layers)
