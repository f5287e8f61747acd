"""Priors over discrete codes, so that a model with a quantised bottleneck can be sampled."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.utils.validation import Positive, checked_arguments


class PixelCNN(nn.Module):
    """p(index) of a grid of codes [b h w], place by place in reading order, each given all of those before it.

    van den Oord et al. 2016b (gated PixelCNN), section 2.3: a vertical stack sees the rows above, a horizontal one the
    places to the left and what the vertical one has seen; so there is no blind spot. Beside the first convolutions both
    see the mean of all that is above, or to the left: nothing is out of reach on grids of any size.
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
        """Indices [b h w] -> the logits of each place's code, which do not depend on it or on any after it."""
        x = self.embedding(index).movedim(-1, 1)
        return self._along(x, self._above(x))

    def _above(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ h w"]]:
        """The vertical stack: what each layer of the horizontal one gets to know of the rows above."""
        above = _mean_before(x.shape[2], x) @ x.mean(3, keepdim=True)
        vertical, known = self.above(F.pad(x, (3, 3, 3, 0))[:, :, :-1]) + self.all_above(above), []
        for layer in self._gated():
            above = layer.above(F.pad(vertical, (1, 1, 1, 0)))
            vertical = _gate(above)
            known.append(layer.across(above))
        return known

    def _along(
        self, x: Float[Tensor, "b c h w"], known: Sequence[Float[Tensor, "b _ h w"]]
    ) -> Float[Tensor, "b codes h w"]:
        """The horizontal stack: logits from what is to the left in each row, and what is known of the rows above."""
        left = x @ _mean_before(x.shape[3], x).T
        horizontal = self.left(F.pad(x, (3, 0))[..., :-1]) + self.all_left(left)
        for layer, above in zip(self._gated(), known, strict=True):
            horizontal = horizontal + layer.out(_gate(layer.left(F.pad(horizontal, (1, 0))) + above))
        return self.last(horizontal)

    def _gated(self) -> list["_Gated"]:
        return [layer for layer in self.layers if isinstance(layer, _Gated)]

    def negative_log_likelihood(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """-log p(index) in nats."""
        return F.cross_entropy(self(index), index, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, count: int, height: int, width: int) -> Int64[Tensor, "b h w"]:
        """`count` grids of codes, drawn place by place."""
        index = torch.zeros(count, height, width, dtype=torch.int64, device=self.embedding.weight.device)
        for row in range(height):
            known = [above[:, :, -1:] for above in self._above(self.embedding(index[:, : row + 1]).movedim(-1, 1))]
            for column in range(width):
                so_far = self.embedding(index[:, row : row + 1, : column + 1]).movedim(-1, 1)
                logits = self._along(so_far, [above[..., : column + 1] for above in known])[:, :, 0, column]
                index[:, row, column] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        return index


class _Gated(nn.Module):
    """The convolutions of a layer of both stacks, each before a gate (equation 2); masks are where they are padded."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(channels, 2 * channels, (2, 3))  # of the vertical stack: this row and the one above
        self.left = nn.Conv2d(channels, 2 * channels, (1, 2))  # of the horizontal one: this place and that to the left
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)  # from the vertical to the horizontal one
        self.out = nn.Conv2d(channels, channels, 1)  # to the residual connection of the horizontal one


def _gate(x: Float[Tensor, "b two_c h w"]) -> Float[Tensor, "b c h w"]:
    value, gate = x.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()


def _mean_before(size: int, like: Tensor) -> Float[Tensor, "{size} {size}"]:
    """The matrix that gives, of `size` places, the mean of those before each; 0 where none is."""
    places = torch.arange(size, device=like.device, dtype=like.dtype)
    return (places < places[:, None]).to(like.dtype) / places.clamp(min=1)[:, None]
