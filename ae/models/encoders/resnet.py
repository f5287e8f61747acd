"""Residual encoder, as of the autoencoders of latent diffusion."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.decoders import ResNetDecoder
from ae.models.encoders.base import ImageEncoder, halving
from ae.models.residual import Downsampling, ResidualBlock, group_norm, halve, middle
from ae.utils.validation import Positive, checked_arguments


class ResNetEncoder(ImageEncoder):
    """A convolution, stages that halve height and width and have residual blocks, and blocks at the lowest resolution.

    Images [b in_channels h w] in [0, 1] -> features [b channels[-1] ceil(h/stride) ceil(w/stride)], stride = 2**stages.
    Pre-activation blocks with group norm and SiLU, as in Rombach et al. 2022 (latent diffusion), whose blocks are at
    the higher resolution of each stage; here they are at the lower one, at a quarter of the cost. Images of any size
    are taken, and any batch size: there are no statistics of the batch.

    blocks        residual blocks of each stage
    attention     over the pixels at the lowest resolution
    downsampling  by a strided convolution, or by an average

    Raises InputError for images of another shape, dtype or range.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: Positive[int] = 1,
        channels: Sequence[Positive[int]] = (32, 64),
        blocks: Positive[int] = 1,
        attention: bool = False,
        downsampling: Downsampling = "strided",
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.feature_info = halving(channels)
        self.channels, self.blocks = tuple(channels), blocks
        self.attention, self.downsampling = attention, downsampling
        first, last = channels[0], channels[-1]
        self.stem = nn.Conv2d(in_channels, first, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(halve(c_in, c_out, downsampling), *(ResidualBlock(c_out, c_out) for _ in range(blocks)))
            for c_in, c_out in zip((first, *channels), channels, strict=False)
        )
        self.middle = nn.Sequential(*middle(last, attention), group_norm(last), nn.SiLU())

    @classmethod
    def of_stages(
        cls, in_channels: int, channels: Sequence[int], depth: int | None = None, norm: bool = False
    ) -> "ResNetEncoder":
        """Build an encoder with a stage for each of `channels`, of `depth` blocks (default: 1)."""
        return cls(in_channels, channels, depth or 1)

    def mirror(self, out_channels: int = 1) -> ResNetDecoder:
        """Build the decoder with these stages in reverse."""
        return ResNetDecoder(out_channels, self.channels[::-1], self.blocks, self.attention)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Images [b c h w] in [0, 1] -> features of the lowest resolution."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Images [b c h w] in [0, 1] -> features of every stage; `feature_info` has their channels and strides."""
        x = self.stem(self.normalised(images))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)  # 28x28: [b 32 14 14], [b 64 7 7]
        return [*features[:-1], self.middle(x)]
