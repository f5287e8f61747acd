"""Vision transformer as a decoder."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.models.transformer import Embedding, Positions, TransformerBlock, images_of
from ae.utils.validation import Positive, check_channels, checked_arguments


class ViTDecoder(nn.Module):
    """Vision transformer from features to patches, with a token for patches that an encoder did not see.

    Features [b in_channels h w] -> pixel logits [b out_channels h*patch w*patch]. The mirror of `ViTEncoder`, with its
    arguments. `fill` takes the tokens of some patches (He et al. 2022). Raises InputError for a wrong number of
    channels.
    """

    @checked_arguments
    def __init__(
        self,
        out_channels: Positive[int] = 1,
        in_channels: Positive[int] = 64,
        patch: Positive[int] = 4,
        width: Positive[int] = 64,
        depth: Positive[int] = 4,
        heads: Positive[int] = 4,
        positions: Embedding = "sinusoidal",
        grid: Sequence[Positive[int]] = (7, 7),
    ) -> None:
        super().__init__()
        self.out_channels, self.in_channels, self.patch = out_channels, in_channels, patch
        self.width, self.depth, self.heads = width, depth, heads
        self.positions, self.grid = positions, tuple(grid)
        self.stride = patch
        self.stem = nn.Linear(in_channels, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.embed_positions = Positions(width, positions, self.grid)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.pixels = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, patch * patch * out_channels))

    def forward(self, features: Float[Tensor, "b features fh fw"]) -> Float[Tensor, "b c h w"]:
        """Features -> pixel logits; their sigmoid is the image."""
        check_channels("features", features, self.in_channels)
        rows, columns = features.shape[-2:]
        tokens = self.stem(rearrange(features, "b d h w -> b (h w) d"))
        return self._images(tokens, rows, columns)

    def fill(
        self, tokens: Float[Tensor, "b k d"], keep: Int64[Tensor, "b k"], rows: int, columns: int
    ) -> Float[Tensor, "b c h w"]:
        """Tokens of the patches `keep` of a grid, by number row by row -> pixel logits of all patches."""
        width = self.width
        x = self.mask_token.expand(len(tokens), rows * columns, width)
        x = x.to(tokens.dtype).scatter(1, keep[:, :, None].expand(-1, -1, width), self.stem(tokens).to(tokens.dtype))
        return self._images(x, rows, columns)

    def _images(self, x: Float[Tensor, "b n d"], rows: int, columns: int) -> Float[Tensor, "b c h w"]:
        x = x + self.embed_positions(rows, columns).to(x)
        for block in self.blocks:
            x = block(x)
        return images_of(self.pixels(x), self.patch, rows)
