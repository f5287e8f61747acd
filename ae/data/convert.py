"""Data of users' own, as `fit` and `evaluate` take them: arrays, tensors, and data sets of PyTorch's kind."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ae.data.images import Batch, Images, ImageSet, as_labels
from ae.data.items import as_pixel_type, channels_first
from ae.data.splits import Data, Splits
from ae.data.streamed import Items, Streamed
from ae.utils.errors import InputError

_TAKEN = "Images, Streamed, a map-style Dataset, images [n c h w], or (images, labels)"


def as_splits(data: Any, door: str = "fit") -> Splits:
    """Splits as they are; `Data`, loaded; all else that `as_images` takes, as training images.

    `door` is the function that was given the data, for messages. Raises InputError for what it can't be.
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Data):
        return data.load()
    if isinstance(data, tuple | list) and len(data) in (2, 3) and all(_is_set(part) for part in data):
        raise InputError(f"{door} takes several sets of images by name: Splits(train=..., validation=...)")
    return Splits(as_images(data, door, f"Splits, Data, {_TAKEN}"))


def as_images(data: Any, door: str = "evaluate", taken: str = _TAKEN) -> ImageSet:
    """Image sets as they are; arrays and tensors of images, with labels or without, as `Images`; data sets, streamed.

    Images are [n c h w], [n h w] or, where the last axis alone can be that of channels, [n h w c]: integers in 0 to
    255, or floats in [0, 1], which are kept as they are. Classes are those of a data set, else the numbers up to the
    highest label. Raises InputError that names `door`, and what it takes.
    """
    if isinstance(data, Images | Streamed):
        return data
    if isinstance(data, Splits | Data):
        raise InputError(f"{door} takes one set of images, as splits.validation or splits.test(), not {_name(data)}")
    if isinstance(data, DataLoader):
        raise InputError(f"{door} makes its batches itself, and takes no DataLoader: give its dataset, loader.dataset")
    if isinstance(data, IterableDataset):
        raise InputError(f"{door} takes no IterableDataset, which has no length and no order: give a map-style Dataset")
    if isinstance(data, Batch):
        return _from_arrays(data.images, data.labels, door)
    if isinstance(data, Tensor | np.ndarray):
        return _from_arrays(data, None, door)
    if isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]) and _is_labels(data[1]):
        return _from_arrays(data[0], data[1], door)
    if isinstance(data, Mapping) and "images" in data and _is_array(data["images"]):
        return _from_arrays(data["images"], data.get("labels"), door)
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, Items) and not isinstance(data, str | bytes | Mapping):
        return Streamed.of(data)
    raise InputError(f"{door} takes {taken}, got {_name(data)}")


def _from_arrays(images: Any, labels: Any, door: str) -> ImageSet:
    pixels = as_pixel_type(images, f"images given to {door}")
    if pixels.ndim == 3:
        pixels = pixels[:, None]  # [n h w] -> [n 1 h w]
    if pixels.ndim != 4:
        raise InputError(f"images given to {door} must be [n c h w] or [n h w], got {list(pixels.shape)}")
    if not pixels.numel():
        raise InputError(f"no images: got {list(pixels.shape)}")
    pixels = channels_first(pixels)
    found = torch.full((len(pixels),), -1) if labels is None else as_labels(labels, len(pixels))
    classes = tuple(str(i) for i in range(int(found.max()) + 1))
    if pixels.dtype == torch.uint8:
        return Images(pixels, found.to(pixels.device), classes)
    grey = (pixels * 255).round()
    if torch.equal(grey / 255, pixels):
        return Images(grey.to(torch.uint8), found.to(pixels.device), classes)
    _, channels, height, width = pixels.shape
    return Streamed(_Rows(pixels.cpu()), found, classes, (channels, height, width), workers=0)


class _Rows:
    """Images held as floats, as a data set of items."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self._pixels[index]


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim in (3, 4)


def _is_labels(value: Any) -> bool:
    """Whether a value stands where labels do: an array that is not one of images, or a sequence of numbers."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim <= 2
    return value is None or (isinstance(value, tuple | list) and all(isinstance(each, int | float) for each in value))


def _is_set(value: Any) -> bool:
    return isinstance(value, ImageSet) or (isinstance(value, Items) and not _is_array(value) and not _is_labels(value))


def _name(value: Any) -> str:
    return type(value).__name__
