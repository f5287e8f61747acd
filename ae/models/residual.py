"""Blocks of residual networks: residual block, attention over pixels, and changes of resolution."""

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.models.transformer import attend

Downsampling = Literal["strided", "pooled"]


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), [b c_in h w] -> [b c_out h w]; x by a 1x1 conv where channels differ.

    Pre-activation (He et al. 2016, identity mappings) with group norm, as in the autoencoders of latent diffusion
    (Rombach et al. 2022).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        """Features of the same height and width."""
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class PixelAttention(nn.Module):
    """x + attention over all pixels of norm(x), with one head (Rombach et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).mT.chunk(3, dim=-1)  # [b h*w c]
        return x + self.proj(attend(q, k, v).mT.reshape_as(x))


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of at most 32 groups of at least 4 channels each, where the channels can be divided so."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)) if channels % 4 == 0 else 1, channels, eps=1e-6)


def halve(c_in: int, c_out: int, kind: Downsampling) -> nn.Module:
    """[b c_in h w] -> [b c_out ceil(h/2) ceil(w/2)], by a strided convolution or an average over 2x2 pixels."""
    if kind == "strided":
        return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.AvgPool2d(2, ceil_mode=True))


def double(c_in: int, c_out: int) -> nn.Module:
    """[b c_in h w] -> [b c_out 2h 2w]: the nearest pixels, and a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1))


def middle(channels: int, attention: bool) -> list[nn.Module]:
    """Blocks at the lowest resolution, where attention is cheap."""
    between = [PixelAttention(channels)] if attention else []
    return [ResidualBlock(channels, channels), *between, ResidualBlock(channels, channels)]
