"""A data set held in memory, and the protocol that data sets share."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ae.data.batch import Batch
from ae.data.targets import Target, as_targets
from ae.functional import LABEL
from ae.utils.errors import InputError
from ae.utils.seeding import generator
from ae.utils.validation import Positive, checked_arguments


@dataclass(frozen=True)
class Images:
    """Data set held in memory: uint8 images [n c h w], and labels [n] in 0..len(classes)-1 or -1 (unlabelled).

    `targets` are values to predict beside the labels, by name: tensors or arrays [n ...] of integers (-1: missing) or
    floats (NaN: missing), or `Target`, which names their classes.
    Raises InputError if there are no images, a label is out of range, or a target does not fit.
    """

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    targets: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor):
            raise InputError(f"images must be a uint8 tensor [n c h w], got {type(self.pixels).__name__}")
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise InputError(f"images must be uint8 [n c h w], got {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.pixels.numel() == 0:
            raise InputError(f"no images: got {list(self.pixels.shape)}")
        object.__setattr__(self, "classes", as_classes(self.classes))
        object.__setattr__(self, "labels", as_labels(self.labels, len(self.pixels), len(self.classes)))
        object.__setattr__(self, "targets", as_targets(self.targets, len(self.pixels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def to(self, device: torch.device | str) -> "Images":
        """Copy the images to a device."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return Images(self.pixels.to(device), self.labels.to(device), self.classes, targets)

    def select(self, index: Int64[Tensor, " m"] | slice) -> "Images":
        """Select images by index."""
        targets = {name: target[index] for name, target in self.targets.items()}
        return Images(self.pixels[index], self.labels[index], self.classes, targets)

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Images":
        """Replace the labels."""
        return replace(self, labels=labels)

    def binarised(self, *key: str | int) -> "Images":
        """Sample each pixel as 0 or 255, with probability pixel / 255 of 255; `key` seeds the sampling."""
        white = torch.rand(self.pixels.shape, generator=generator("binarised", *key)) * 255 < self.pixels.cpu()
        return replace(self, pixels=(white * 255).to(torch.uint8).to(self.pixels.device))

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch:
        """Make a batch of the images at `index`, scaled to [0, 1]."""
        targets = {name: target.batch(index) for name, target in self.targets.items()}
        if isinstance(index, slice):
            return Batch(self.pixels[index] / 255, {LABEL: self.labels[index], **targets})
        labels = self.labels.index_select(0, index)
        return Batch(self.pixels.index_select(0, index) / 255, {LABEL: labels, **targets})

    @checked_arguments
    def in_order(self, batch_size: Positive[int]) -> Iterator[Batch]:
        """Iterate over all images once, in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(slice(start, start + batch_size))

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]:
        """Iterate over the batches of `indices`, in order."""
        for index in indices:
            yield self.batch(index.to(self.labels.device, non_blocking=True))


def as_labels(labels: Any, count: int, classes: int | None = None) -> Int64[Tensor, " n"]:
    """Convert a tensor, array or sequence of integers, [n] or [n 1], to int64 labels [n].

    Raises InputError for values that are not integers (0.5, True), a count other than `count`, or labels outside
    -1 to `classes` - 1.
    """
    try:
        tensor = labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be whole numbers [{count}], got {type(labels).__name__}") from error
    has_bool = not isinstance(labels, Tensor | np.ndarray) and any(isinstance(label, bool) for label in labels)
    is_integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or has_bool)
    if tensor.numel() and not is_integer:
        raise InputError(f"labels must be whole numbers, 0 for the first class, got {tensor.dtype}")
    if tensor.shape == (count, 1):
        tensor = tensor[:, 0]
    if tensor.shape != (count,):
        raise InputError(f"labels must be [{count}], one for each image, got {list(tensor.shape)}")
    tensor = tensor.long()
    if classes is not None and count:
        low, high = tensor.aminmax()
        if low < -1 or high >= classes:
            valid = (
                f"0 to {classes - 1}, or -1 for unlabelled" if classes else "-1 for unlabelled: there are no classes"
            )
            raise InputError(f"label out of range: must be {valid}, got {low} to {high}")
    return tensor


def as_classes(classes: Any) -> tuple[str, ...]:
    """Convert class names to a tuple of strings; raises InputError for other values."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise InputError(f"classes must be a sequence of names, got {classes!r}")
    names = tuple(classes)
    invalid = [name for name in names if not isinstance(name, str)]
    if invalid:
        raise InputError(f"classes must be a sequence of names, got {invalid[0]!r} among them")
    return names


@runtime_checkable
class ImageSet(Protocol):
    """Protocol of a data set: `Images` (held in memory) or `Streamed` (read on demand)."""

    @property
    def labels(self) -> Int64[Tensor, " n"]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def targets(self) -> Mapping[str, Target]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> "ImageSet": ...

    def select(self, index: Int64[Tensor, " m"] | slice) -> "ImageSet": ...

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "ImageSet": ...

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch: ...

    def in_order(self, batch_size: int) -> Iterator[Batch]: ...

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]: ...
