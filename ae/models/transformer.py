"""Blocks of vision transformers: attention by PyTorch's kernel, positions, and patches of images."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError

Embedding = Literal["sinusoidal", "learned"]


def attend(q: Float[Tensor, "b *h n d"], k: Float[Tensor, "b *h n d"], v: Float[Tensor, "b *h n d"]) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, [b *h n d], by PyTorch's kernel.

    In float32 on a CPU, whatever the autocast: the kernel's backward pass in bfloat16 takes 8 times as long there.
    """
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class Attention(nn.Module):
    """Multi-head self-attention of tokens [b n d] (Vaswani et al. 2017); names of weights as in timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"the width, {width}, must be a multiple of the number of heads, {heads}")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens of the same shape."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.proj(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU between; names of weights as in timm."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens of the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and added (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, mlp_ratio * width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens of the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Positions(nn.Module):
    """Positions of a grid of tokens, for any height and width of the grid.

    Sinusoidal ones are functions of row and column; learned ones belong to `grid` = (rows, columns), and are
    interpolated for another grid.
    """

    def __init__(self, width: int, kind: Embedding, grid: Sequence[int]) -> None:
        super().__init__()
        if kind == "sinusoidal" and width % 4:
            raise InputError(f"sinusoidal positions need a width that is a multiple of 4, got {width}")
        self.width, self.kind = width, kind
        if kind == "learned":
            self.embedding = nn.Parameter(0.02 * torch.randn(1, width, *grid))

    def forward(self, rows: int, columns: int) -> Float[Tensor, "n d"]:
        """Positions of the tokens of a grid, row by row."""
        if self.kind == "sinusoidal":
            return sinusoidal_positions(rows, columns, self.width)
        grid: Tensor = self.embedding
        if grid.shape[2:] != (rows, columns):
            grid = F.interpolate(grid.float(), (rows, columns), mode="bicubic", align_corners=False)
        return rearrange(grid, "1 d h w -> (h w) d")


def sinusoidal_positions(rows: int, columns: int, width: int) -> Float[Tensor, "n width"]:
    """Sines and cosines of column and row at width/4 frequencies from 1 to 1/10,000, as in He et al. 2022 (MAE)."""
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    by_row, by_column = (torch.arange(n, dtype=torch.float64)[:, None] * frequencies for n in (rows, columns))
    x = by_column.repeat(rows, 1)
    y = by_row.repeat_interleave(columns, 0)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def patches_of(images: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Divide images, whose size is a multiple of `patch`, into patches of patch*patch*c values, row by row."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def images_of(patches: Float[Tensor, "b n p"], patch: int, rows: int) -> Float[Tensor, "b c h w"]:
    """Put patches, row by row, together as images: the inverse of `patches_of`."""
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", p=patch, q=patch, h=rows)


def pad_to_multiple(images: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b c ph pw"]:
    """Repeat the last row and column up to a multiple of `patch`."""
    height, width = images.shape[-2:]
    missing = -height % patch, -width % patch
    return F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else images
