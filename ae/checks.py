"""Checks at the border between users' tensors and the modules."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ae.errors import InputError

_check_range = True


@contextmanager
def unchecked_range() -> Iterator[None]:
    """Inside, the range of images is not checked: where it is right by construction, or meant to be exceeded (noise).

    Reading the range back makes a CUDA device wait; `fit` and `evaluate`, which scale the images themselves, use this.
    """
    global _check_range
    before, _check_range = _check_range, False
    try:
        yield
    finally:
        _check_range = before


def check_images(images: Tensor, channels: int, dtype: torch.dtype) -> None:
    """Raise InputError unless `images` is [b `channels` h w] of `dtype` with values in [0, 1]."""
    shape = list(images.shape)
    if images.ndim != 4 or images.shape[1] != channels or 0 in shape[2:]:
        raise InputError(f"images must be [b {channels} h w], got {shape}")
    if images.dtype != dtype:
        cure = ": divide them by 255.0" if images.dtype == torch.uint8 else ""
        raise InputError(f"images must be {dtype} in [0, 1], got {images.dtype}{cure}")
    if _check_range and not torch.compiler.is_compiling() and images.numel():
        low, high = images.detach().aminmax()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise InputError(
                f"images must lie in [0, 1], got {low:.4g} to {high:.4g}: the encoder normalises them itself"
            )


def check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `x` is [b *shape]."""
    if tuple(x.shape[1:]) != shape:
        raise InputError(f"{name} must be [b {' '.join(map(str, shape))}], got {list(x.shape)}")


def check_positive(**values: int | float | None) -> None:
    """Raise InputError for the first value that is zero or less; None is a value not given."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, got {value}")
