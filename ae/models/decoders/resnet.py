"""Residual decoder, as of the autoencoders of latent diffusion."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.residual import ResidualBlock, double, group_norm, middle
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_channels, checked_arguments


class ResNetDecoder(nn.Module):
    """A convolution, blocks at the lowest resolution, stages that have residual blocks and double height and width.

    Features [b channels[0] h w] -> pixel logits [b out_channels h*stride w*stride], stride = 2**stages. The mirror of
    `ResNetEncoder`, with its arguments. Raises InputError for a wrong number of channels.
    """

    @checked_arguments
    def __init__(
        self,
        out_channels: Positive[int] = 1,
        channels: Sequence[Positive[int]] = (64, 32),
        blocks: Positive[int] = 1,
        attention: bool = False,
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("a decoder needs at least one stage, got channels=()")
        self.out_channels, self.channels = out_channels, tuple(channels)
        self.blocks, self.attention = blocks, attention
        self.stride = 2 ** len(channels)
        first, last = channels[0], channels[-1]
        self.stem = nn.Sequential(nn.Conv2d(first, first, 3, padding=1), *middle(first, attention))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(c_in, c_in) for _ in range(blocks)), double(c_in, c_out))
            for c_in, c_out in zip(channels, (*channels[1:], last), strict=True)
        )
        self.pixels = nn.Sequential(group_norm(last), nn.SiLU(), nn.Conv2d(last, out_channels, 3, padding=1))

    def forward(self, features: Float[Tensor, "b features fh fw"]) -> Float[Tensor, "b c h w"]:
        """Features -> pixel logits; their sigmoid is the image."""
        check_channels("features", features, self.channels[0])
        x = self.stem(features)  # 28x28: [b 64 7 7]
        for stage in self.stages:
            x = stage(x)  # [b 32 14 14], [b 32 28 28]
        return self.pixels(x)
