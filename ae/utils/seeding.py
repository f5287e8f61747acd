"""Randomness as a function of position: a seed is made of what is drawn and where, never of what was drawn before."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def derive(*key: str | int) -> int:
    """A 63-bit seed that depends on `key` alone, as in `derive("order", seed, epoch)`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive(*key)`; what it draws is the same whatever device the numbers move to."""
    return torch.Generator().manual_seed(derive(*key))


def reseed(device: torch.device, *key: str | int) -> None:
    """Seed the global generators of the CPU and of `device` by `derive(*key)`.

    As `torch.manual_seed`, which sees to every kind of device there might be, and takes 100 times as long on a CPU.
    """
    seed = derive(*key)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def normal_like(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Draws of N(0, 1) by the global generator, in the shape and memory format of `x`.

    As `torch.randn_like`, which draws number by number what isn't contiguous: on a CPU, images and features that are
    channels-last take it 6 to 20 times as long.
    """
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.randn_like(x)
    b, c, h, w = x.shape
    return torch.randn(b, h, w, c, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
