"""Checks of tensors: images [b c h w] in [0, 1], and shapes of features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ae.utils.errors import InputError

_check_range = True


@contextmanager
def unchecked_range() -> Iterator[None]:
    """Skip the check of the range of images and labels, where the range is known or may be exceeded.

    Reading a range synchronises a CUDA device. `fit` and `evaluate`, which scale the images themselves, skip the check.
    """
    global _check_range
    before, _check_range = _check_range, False
    try:
        yield
    finally:
        _check_range = before


def checks_range() -> bool:
    """Whether ranges are checked: not inside `unchecked_range`, and not while a graph is compiled."""
    return _check_range and not torch.compiler.is_compiling()


def check_images(images: Tensor, channels: int, dtype: torch.dtype) -> None:
    """Raise InputError unless `images` is [b `channels` h w] of `dtype` with values in [0, 1]."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch tensor [b {channels} h w], got {_type_name(images)}")
    shape = list(images.shape)
    if images.ndim != 4 or images.shape[1] != channels or 0 in shape[2:]:
        raise InputError(f"images must be [b {channels} h w], got {shape}")
    if images.dtype != dtype:
        remedy = ": divide them by 255.0" if images.dtype == torch.uint8 else ""
        raise InputError(f"images must be {dtype} in [0, 1], got {images.dtype}{remedy}")
    if checks_range() and images.numel():
        low, high = images.detach().aminmax()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise InputError(
                f"images must lie in [0, 1], got {low:.4g} to {high:.4g}: the encoder normalises them itself"
            )


def check_channels(name: str, x: Tensor, channels: int) -> None:
    """Raise InputError unless `x` is [b `channels` h w]."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} must be a torch tensor [b {channels} h w], got {_type_name(x)}")
    if x.ndim != 4 or x.shape[1] != channels:
        raise InputError(f"{name} must be [b {channels} h w], got {list(x.shape)}")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `x` is [b *shape]."""
    if tuple(x.shape[1:]) != shape:
        raise InputError(f"{name} must be [b {' '.join(map(str, shape))}], got {list(x.shape)}")


def _type_name(images: Any) -> str:
    """Return the type's name of a value that is no tensor, with the conversion of a NumPy array."""
    return type(images).__name__ + (": torch.from_numpy makes one" if isinstance(images, np.ndarray) else "")
