"""Arrays of images, with labels and targets beside them, as an image set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ae.data.images import Images, ImageSet, as_classes, as_labels
from ae.data.items import as_pixel_type, channels_first
from ae.data.streamed import Streamed
from ae.utils.errors import InputError


@runtime_checkable
class Array(Protocol):
    """Protocol of an array in memory or in a file, of which parts are read by indexing."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def from_arrays(
    images: Any,
    labels: Any = None,
    targets: Mapping[str, Any] | None = None,
    classes: Any = None,
    name: str = "images",
) -> ImageSet:
    """Convert arrays to `Images`, or to a `Streamed` where floats in [0, 1] would have to be rounded.

    images   [n c h w], [n h w] or, if only the last axis can be the channels, [n h w c]: integers in 0 to 255, or
             floats in [0, 1]; `name` begins the message about them
    labels   [n] or [n 1] whole numbers; -1 is unlabelled, and so are all images without labels
    classes  their names; by default the numbers up to the highest label
    """
    pixels = as_pixel_type(images, name)
    if pixels.ndim == 3:
        pixels = pixels[:, None]  # [n h w] -> [n 1 h w]
    if pixels.ndim != 4:
        raise InputError(f"{name} must be [n c h w] or [n h w], got {list(pixels.shape)}")
    if not pixels.numel():
        raise InputError(f"no images: got {list(pixels.shape)}")
    pixels = channels_first(pixels)
    labels, classes = labels_and_classes(labels, classes, len(pixels))
    labels = labels.to(pixels.device)
    if pixels.dtype == torch.uint8:
        return Images(pixels, labels, classes, targets or {})
    grey = (pixels * 255).round()
    if torch.equal(grey / 255, pixels):
        return Images(grey.to(torch.uint8), labels, classes, targets or {})
    _, channels, height, width = pixels.shape
    return Streamed(Rows(pixels.cpu()), labels.cpu(), classes, (channels, height, width), 0, targets or {})


def read_on_demand(
    images: Array, workers: int, labels: Any = None, targets: Mapping[str, Any] | None = None, classes: Any = None
) -> Streamed:
    """Open an array in a file as a `Streamed`, of which only batches are in memory; arguments as in `from_arrays`."""
    if len(images.shape) not in (3, 4) or 0 in images.shape:
        raise InputError(f"images must be [n c h w] or [n h w], got {list(images.shape)}")
    if len(images.shape) == 3:
        channels, height, width = 1, *images.shape[1:]
    else:
        channels, height, width = channels_first(torch.empty(images.shape[1:], device="meta")).shape
    labels, classes = labels_and_classes(labels, classes, images.shape[0])
    return Streamed(Rows(images), labels, classes, (channels, height, width), workers, targets or {})


def labels_and_classes(labels: Any, classes: Any, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Check labels and the names of their classes; see `from_arrays`."""
    labels = torch.full((count,), -1) if labels is None else as_labels(labels, count)
    if classes is None:
        classes = tuple(str(i) for i in range(int(labels.max()) + 1))
    return labels, as_classes(classes)


@dataclass(frozen=True)
class Rows:
    """Images [n ...] of an array as the items of a `Streamed`."""

    array: Array

    def __len__(self) -> int:
        return self.array.shape[0]

    def __getitem__(self, index: int) -> Any:
        row = self.array[index]
        return row if isinstance(row, Tensor) else np.array(row)

    def content(self, index: int) -> bytes:
        """The bytes of an image."""
        return np.asarray(self.array[index]).tobytes()
