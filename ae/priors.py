"""Priors over discrete codes, so that a model with a quantised bottleneck can be sampled."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.validation import Positive, checked_arguments


class PixelCNN(nn.Module):
    """p(index) of a grid of codes [b h w], place by place in reading order, each given those before it.

    van den Oord et al. 2016: a masked convolution that sees the places above and to the left, then residual blocks of
    masked ones that see their own place too. Grids of any size.
    """

    @checked_arguments
    def __init__(self, codes: Positive[int], channels: Positive[int] = 64, blocks: Positive[int] = 4) -> None:
        super().__init__()
        self.codes, self.channels = codes, channels
        self.embedding = nn.Embedding(codes, channels)
        self.first = _Masked(channels, channels, 7, sees_itself=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.ReLU(), nn.Conv2d(channels, channels // 2, 1)),
                *(nn.ReLU(), _Masked(channels // 2, channels // 2, 3, sees_itself=True)),
                *(nn.ReLU(), nn.Conv2d(channels // 2, channels, 1)),
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, codes, 1))

    def forward(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, "b codes h w"]:
        """Indices [b h w] -> the logits of each place's code, which do not depend on it or on any after it."""
        x = self.first(self.embedding(index).movedim(-1, 1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)

    def negative_log_likelihood(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """-log p(index) in nats."""
        return F.cross_entropy(self(index), index, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, count: int, height: int, width: int) -> Int64[Tensor, "b h w"]:
        """`count` grids of codes, drawn place by place."""
        index = torch.zeros(count, height, width, dtype=torch.int64, device=self.embedding.weight.device)
        for row in range(height):
            for column in range(width):
                logits = self(index[:, : row + 1])[:, :, row, column]
                index[:, row, column] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        return index


class _Masked(nn.Conv2d):
    """A convolution that sees the places above, those to the left, and its own if asked."""

    mask: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int, sees_itself: bool) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        mask = torch.ones(kernel, kernel)
        mask[kernel // 2, kernel // 2 + sees_itself :] = 0
        mask[kernel // 2 + 1 :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)
