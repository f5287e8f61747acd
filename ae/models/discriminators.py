"""Discriminators: images -> logits that they are real."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.residual import group_norm
from ae.utils.validation import Positive, check_channels, checked_arguments


class PatchDiscriminator(nn.Module):
    """Logits that patches of an image are real, by strided convolutions (Isola et al. 2017, section 3.2.2).

    Images [b in_channels h w] in [0, 1] -> logits [b h' w'], each of a patch of 26x26 pixels with two strided layers.
    With group norm in place of batch norm, so that an image's logits do not depend on the others.
    """

    @checked_arguments
    def __init__(self, in_channels: Positive[int] = 1, channels: Positive[int] = 32, layers: Positive[int] = 2) -> None:
        super().__init__()
        self.in_channels, self.channels, self.layers = in_channels, channels, layers
        widths = [channels * 2 ** min(i, 3) for i in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            kernel, stride = (4, 2) if i < layers - 1 else (3, 1)
            blocks += [nn.Conv2d(c_in, c_out, kernel, stride, padding=1), group_norm(c_out), nn.LeakyReLU(0.2)]
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ph pw"]:
        """Images in [0, 1] -> logits of patches."""
        check_channels("images", images, self.in_channels)
        return self.logits(self.blocks(2 * images - 1)).squeeze(1)
