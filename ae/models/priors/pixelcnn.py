"""Learned priors over discrete codes, to sample from models with a quantizer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.functional import at_least_float32
from ae.utils.validation import Positive, checked_arguments


class PixelCNN(nn.Module):
    """Autoregressive distribution of a grid of code indices [b h w], in raster order.

    van den Oord et al. 2016b (gated PixelCNN), section 2.3. A vertical stack sees the rows above; a horizontal stack
    sees the positions to the left and the vertical stack, so that there is no blind spot. Beside their first
    convolution, the stacks see the mean of all rows above, or all positions to the left: the receptive field covers
    grids of any size.
    """

    @checked_arguments
    def __init__(self, codebook_size: Positive[int], channels: Positive[int] = 32, blocks: Positive[int] = 4) -> None:
        super().__init__()
        self.codebook_size, self.channels, self.blocks = codebook_size, channels, blocks
        self.embedding = nn.Embedding(codebook_size, channels)
        self.above = nn.Conv2d(channels, channels, (3, 7))
        self.left = nn.Conv2d(channels, channels, (1, 3))
        self.all_above = nn.Conv2d(channels, channels, 1, bias=False)
        self.all_left = nn.Conv2d(channels, channels, 1, bias=False)
        self.layers = nn.ModuleList(_Gated(channels) for _ in range(blocks))
        hidden, logits = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, codebook_size, 1)
        self.last = nn.Sequential(nn.SiLU(), hidden, nn.SiLU(), logits)

    def forward(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, "b codes h w"]:
        """Indices [b h w] -> logits of the code at each position, given the positions before."""
        x = self.embedding(index).movedim(-1, 1)
        return self._horizontal(x, self._vertical(x))

    def _vertical(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ h w"]]:
        """The vertical stack: its contribution to each layer of the horizontal stack."""
        above = _mean_before(x.shape[2], x) @ x.mean(3, keepdim=True)
        vertical, contributions = self.above(F.pad(x, (3, 3, 3, 0))[:, :, :-1]) + self.all_above(above), []
        for layer in self._gated():
            above = layer.above(F.pad(vertical, (1, 1, 1, 0)))
            vertical = _gate(above)
            contributions.append(layer.across(above))
        return contributions

    def _horizontal(
        self, x: Float[Tensor, "b c h w"], contributions: Sequence[Float[Tensor, "b _ h w"]]
    ) -> Float[Tensor, "b codes h w"]:
        """The horizontal stack: logits from the positions to the left and the contributions of the vertical stack."""
        left = x @ _mean_before(x.shape[3], x).T
        horizontal = self.left(F.pad(x, (3, 0))[..., :-1]) + self.all_left(left)
        for layer, above in zip(self._gated(), contributions, strict=True):
            horizontal = horizontal + layer.out(_gate(layer.left(F.pad(horizontal, (1, 0))) + above))
        return self.last(horizontal)

    def _gated(self) -> list["_Gated"]:
        return [layer for layer in self.layers if isinstance(layer, _Gated)]

    def negative_log_likelihood(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """-log p(index) in nats."""
        return F.cross_entropy(at_least_float32(self(index)), index, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, count: int, height: int, width: int) -> Int64[Tensor, "b h w"]:
        """Draw `count` grids of code indices, position by position."""
        index = torch.zeros(count, height, width, dtype=torch.int64, device=self.embedding.weight.device)
        for row in range(height):
            contributions = [
                above[:, :, -1:] for above in self._vertical(self.embedding(index[:, : row + 1]).movedim(-1, 1))
            ]
            for column in range(width):
                drawn = self.embedding(index[:, row : row + 1, : column + 1]).movedim(-1, 1)
                logits = self._horizontal(drawn, [above[..., : column + 1] for above in contributions])[:, :, 0, column]
                index[:, row, column] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        return index


class _Gated(nn.Module):
    """Convolutions of a layer of both stacks, before their gates (equation 2); masked by padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(channels, 2 * channels, (2, 3))  # vertical stack: this row and the row above
        self.left = nn.Conv2d(channels, 2 * channels, (1, 2))  # horizontal stack: this position and the left neighbour
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)  # from the vertical to the horizontal stack
        self.out = nn.Conv2d(channels, channels, 1)  # residual branch of the horizontal stack


def _gate(x: Float[Tensor, "b two_c h w"]) -> Float[Tensor, "b c h w"]:
    value, gate = x.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()


def _mean_before(size: int, like: Tensor) -> Float[Tensor, "{size} {size}"]:
    """Matrix that maps `size` positions to the mean of the positions before each; 0 for the first."""
    positions = torch.arange(size, device=like.device, dtype=like.dtype)
    return (positions < positions[:, None]).to(like.dtype) / positions.clamp(min=1)[:, None]
