"""Conversion of the items of users' data sets to images and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from ae.data.decode import as_displayed, as_pixels
from ae.data.targets import as_target_values
from ae.utils.errors import InputError, one_line

IMAGE_NAMES = ("image", "images", "img", "pixel_values", "pixels", "x")
LABEL_NAMES = ("label", "labels", "target", "targets", "class", "y")
_LABELS = ("label", "labels")  # in the mapping of an item (image, {name: value})
_CHANNELS = (1, 2, 3, 4)  # sizes of a last axis that can be the channels


def image_of(item: Any, name: str, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Get the image of an item: uint8 [c h w] or float32 [c h w] in [0, 1]; raises InputError if not of `shape`."""
    if isinstance(item, Mapping):
        item = item[_key(item, IMAGE_NAMES, name)]
    elif isinstance(item, tuple | list):
        if not item:
            raise InputError(f"{name} must be (image, label), got an empty {type(item).__name__}")
        item = item[0]
    image = as_image(item, name, shape)
    if shape is not None and tuple(image.shape) != shape:
        raise InputError(f"{name} must be {list(shape)}, got {list(image.shape)}")
    return image


def label_of(item: Any, name: str) -> int:
    """Get the label of an item, or -1 if it has none; raises InputError for a label that is not an integer."""
    if isinstance(item, Mapping):
        key = next((key for key in LABEL_NAMES if key in item), None)
        label = None if key is None else item[key]
    else:
        label = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
        if isinstance(label, Mapping):
            label = next((label[key] for key in _LABELS if key in label), None)
    if label is None:
        return -1
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool | np.bool_) or not isinstance(label, Integral):
        raise InputError(f"the label of {name} must be a whole number, got {_shortly(label)}")
    return int(label)


@dataclass(frozen=True)
class ItemTarget:
    """Kind of a target that is read with each item (image, {name: value, ...}): floats or integers of a shape."""

    is_float: bool
    shape: tuple[int, ...]

    def of(self, item: Any, name: str, item_name: str) -> Shaped[Tensor, "*shape"]:
        """Get the target of an item, float32 or int64; raises InputError if it is missing or of another kind."""
        values = _given(item)
        if values.get(name) is None:
            missing = "NaN" if self.is_float else "-1"
            raise InputError(f"{item_name} has no target {name}: give it, or {missing} where it is missing")
        value = as_target_values(np.asarray(values[name])[None], f"the target {name} of {item_name}")[0]
        if tuple(value.shape) != self.shape:
            raise InputError(
                f"the target {name} of {item_name} must be {list(self.shape)} as of item 0, got {list(value.shape)}"
            )
        if value.is_floating_point() and not self.is_float:
            raise InputError(f"the target {name} of {item_name} must be an integer as of item 0, got a float")
        return value.float() if self.is_float else value.long()

    def none(self) -> Shaped[Tensor, "0 *shape"]:
        """The targets of no item."""
        return torch.empty(0, *self.shape, dtype=torch.float32 if self.is_float else torch.int64)


def item_targets(item: Any) -> dict[str, ItemTarget]:
    """The kinds of the targets of an item (image, {name: value, ...}), beside its label; none for other items."""
    kinds = {}
    for name, given in _given(item).items():
        if name not in _LABELS:
            value = as_target_values(np.asarray(given)[None], f"the target {name} of item 0")[0]
            kinds[name] = ItemTarget(value.is_floating_point(), tuple(value.shape))
    return kinds


def _given(item: Any) -> Mapping[str, Any]:
    """The mapping of an item (image, {...}); empty for another item."""
    second = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
    return second if isinstance(second, Mapping) else {}


def labels_of(items: Any) -> Any:
    """Get all labels without decoding images; None if the data set has no such labels."""
    if isinstance(items, Subset):
        labels = labels_of(items.dataset)
        return None if labels is None else torch.as_tensor(np.asarray(labels))[torch.as_tensor(list(items.indices))]
    if isinstance(items, ConcatDataset):
        parts = [labels_of(part) for part in items.datasets]
        return None if any(part is None for part in parts) else np.concatenate([np.asarray(part) for part in parts])
    if isinstance(items, TensorDataset):
        return items.tensors[1] if len(items.tensors) > 1 else torch.full((len(items),), -1)
    transform = getattr(items, "target_transform", None)  # of torchvision's data sets
    for name in ("targets", "labels"):
        labels = getattr(items, name, None)
        if isinstance(labels, Tensor | np.ndarray | Sequence) and not isinstance(labels, str):
            array = labels if isinstance(labels, Tensor) else np.asarray(labels)
            if array.shape == (len(items),):
                return labels if transform is None else [transform(label) for label in array.tolist()]
    return None


def as_image(image: Any, name: str, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Convert an image to uint8 [c h w] or float32 [c h w] in [0, 1]; raises InputError if it is ambiguous."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return as_pixels(as_displayed(image, None if shape is None else "L" if shape[0] == 1 else "RGB"))
    if not isinstance(image, Tensor | np.ndarray):
        expected = "a tensor, uint8 or float32 in [0, 1], an array or a Pillow image"
        raise InputError(f"{name} must be {expected}, got {type(image).__name__}")
    pixels = as_pixel_type(image, name)
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise InputError(f"{name} must be an image [c h w], [h w] or [h w c], got {list(pixels.shape)}")
    return channels_first(pixels, shape)


def channels_first(pixels: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Move channels first, [... h w c] -> [... c h w], if only the last axis can be the channels."""
    is_last = pixels.shape[-1] in _CHANNELS and pixels.shape[-3] not in _CHANNELS
    if tuple(pixels.shape) == shape or not is_last:
        return pixels
    return rearrange(pixels, "... h w c -> ... c h w").contiguous()


def as_pixel_type(values: Any, name: str) -> Tensor:
    """Convert values to uint8 or float32 in [0, 1], and booleans to 0 and 255; raises InputError for other ranges."""
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
    key = next((key for key in names if key in item), None)
    if key is None:
        raise InputError(
            f"{name} must have an image under one of the keys {', '.join(names)}, got {_shortly(list(item))}"
        )
    return key


def _shortly(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 80 else f"{text[:80]}..."
