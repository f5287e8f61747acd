"""Items of users' data sets: where in them image and label are, and what they mean."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ae.data.files import as_pixels, as_shown
from ae.utils.errors import InputError, one_line

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "pixels", "x")
_LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")
_CHANNELS = (1, 2, 3, 4)  # as many as the last axis of an image has, where it is that of channels


def image_of(item: Any, name: str, shape: tuple[int, int, int] | None = None) -> Tensor:
    """The image of an item: uint8 [c h w], or float32 [c h w] in [0, 1]; of `shape`, where it is given."""
    if isinstance(item, Mapping):
        item = item[_key(item, _IMAGE_KEYS, name)]
    elif isinstance(item, tuple | list):
        if not item:
            raise InputError(f"{name} must be (image, label), got an empty {type(item).__name__}")
        item = item[0]
    image = as_image(item, name, shape)
    if shape is not None and tuple(image.shape) != shape:
        raise InputError(f"{name} must be {list(shape)}, got {list(image.shape)}")
    return image


def label_of(item: Any, name: str) -> int:
    """The label of an item; -1 where it has none. Raises InputError for anything but a whole number."""
    if isinstance(item, Mapping):
        key = next((key for key in _LABEL_KEYS if key in item), None)
        label = None if key is None else item[key]
    else:
        label = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
    if label is None:
        return -1
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool | np.bool_) or not isinstance(label, Integral):
        raise InputError(f"the label of {name} must be a whole number, got {_shortly(label)}")
    return int(label)


def labels_of(items: Any) -> Any:
    """The labels that a data set gives without its images being decoded; None where it gives none."""
    if isinstance(items, Subset):
        labels = labels_of(items.dataset)
        return None if labels is None else torch.as_tensor(np.asarray(labels))[torch.as_tensor(list(items.indices))]
    if isinstance(items, TensorDataset):
        return items.tensors[1] if len(items.tensors) > 1 else torch.full((len(items),), -1)
    if getattr(items, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        labels = getattr(items, name, None)
        if isinstance(labels, Tensor | np.ndarray | Sequence) and not isinstance(labels, str):
            array = labels if isinstance(labels, Tensor) else np.asarray(labels)
            if array.shape == (len(items),):
                return labels
    return None


def as_image(image: Any, name: str, shape: tuple[int, int, int] | None = None) -> Tensor:
    """An image as uint8 [c h w] or float32 [c h w] in [0, 1]; raises InputError where it can't mean one thing only."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return as_pixels(as_shown(image, None if shape is None else "L" if shape[0] == 1 else "RGB"))
    if not isinstance(image, Tensor | np.ndarray):
        wanted = "a tensor, uint8 or float32 in [0, 1], an array or one of Pillow's images"
        raise InputError(f"{name} must be {wanted}, got {type(image).__name__}")
    pixels = as_pixel_type(image, name)
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise InputError(f"{name} must be an image [c h w], [h w] or [h w c], got {list(pixels.shape)}")
    return channels_first(pixels, shape)


def channels_first(pixels: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """[... h w c] -> [... c h w], where the last axis alone can be that of channels; else as it is."""
    is_last = pixels.shape[-1] in _CHANNELS and pixels.shape[-3] not in _CHANNELS
    if tuple(pixels.shape) == shape or not is_last:
        return pixels
    return rearrange(pixels, "... h w c -> ... c h w").contiguous()


def as_pixel_type(values: Any, name: str) -> Tensor:
    """Numbers as uint8, or as float32 in [0, 1]; black and white as 0 and 255. Raises InputError for other ranges."""
    try:
        pixels = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers, uint8 or float32 in [0, 1], got {values.dtype}") from error
    if pixels.dtype == torch.uint8 or not pixels.numel():
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    if pixels.is_complex():
        raise InputError(f"{name} must hold uint8, or floats in [0, 1], got {pixels.dtype}")
    low, high = (pixels.float() if pixels.is_floating_point() else pixels.long()).aminmax()
    if pixels.is_floating_point():
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise InputError(f"{name} must lie in [0, 1], got {low:.4g} to {high:.4g}")
        return pixels.float()
    if low < 0 or high > 255:
        raise InputError(f"{name} must lie in 0 to 255, got {low} to {high}")
    return pixels.to(torch.uint8)


def _key(item: Mapping[str, Any], names: Sequence[str], name: str) -> str:
    found = [key for key in names if key in item]
    if not found:
        raise InputError(
            f"{name} must have an image under one of the keys {', '.join(names)}, got {_shortly(list(item))}"
        )
    return found[0]


def _shortly(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 80 else f"{text[:80]}..."
