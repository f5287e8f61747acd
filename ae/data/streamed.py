"""Data sets that do not fit in memory, read item by item in worker processes."""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ae.data.batch import Batch
from ae.data.files import note
from ae.data.images import as_classes, as_labels
from ae.data.items import ItemTarget, image_of, item_targets, label_of, labels_of
from ae.data.targets import as_targets
from ae.functional import LABEL
from ae.utils.errors import InputError, one_line
from ae.utils.validation import AtLeast0, Positive, checked, checked_arguments

_MANY_ITEMS = 5000


@runtime_checkable
class Items(Protocol):
    """Protocol of a map-style data set (`torch.utils.data.Dataset`); `ae.data.items` says which items are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Streamed:
    """Data set read on demand, with the interface of `Images`.

    items    item i is (image, label), a mapping with `image`, or an image; an image is uint8 or float in [0, 1],
             [c h w], [h w] or [h w c], or a Pillow image
    labels   [n] integer labels of all items; -1 is unlabelled
    shape    (channels, height, width) of every image
    workers  processes that read ahead (0: none); batches and their order do not depend on it
    targets  values to predict beside the labels, held in memory, as in `Images`
    read     targets that are read with each item, (image, {name: value, ...}), and the kind of each
    """

    items: Items
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    workers: int = 2
    targets: Mapping[str, Any] = field(default_factory=dict)
    read: Mapping[str, ItemTarget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", checked(self.workers, AtLeast0[int], "workers"))
        if not len(self.items):
            raise InputError("no images: the data set is empty")
        object.__setattr__(self, "classes", as_classes(self.classes))
        if not hasattr(self.labels, "__len__") or len(self.labels) != len(self.items):
            got = len(self.labels) if hasattr(self.labels, "__len__") else type(self.labels).__name__
            raise InputError(f"must have a label for each of {len(self.items)} images, got {got}")
        object.__setattr__(self, "labels", as_labels(self.labels, len(self.items), len(self.classes)))
        shape = checked(self.shape, tuple[Positive[int], Positive[int], Positive[int]], "shape")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "targets", as_targets(self.targets, len(self.items)))

    @classmethod
    @checked_arguments
    def of(cls, items: Items, classes: Sequence[str] | None = None, workers: AtLeast0[int] = 2) -> "Streamed":
        """Infer shape, labels and classes from the items.

        The first item gives the shape, and of items (image, {name: value, ...}) the targets that are read with each.
        Other keys of an item that is a mapping are not read. Labels are `items.targets` or `items.labels`, by
        `items.target_transform`, also in a `Subset` or `ConcatDataset`; else every item is read once for its label,
        with a note on stderr for large data sets. Classes are by default `items.classes`, else the numbers up to the
        highest label.
        """
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise InputError(f"items must be a Dataset with a length, of (image, label), got {type(items).__name__}")
        if not len(items):
            raise InputError("no images: the data set is empty")
        first = _item(items, 0)
        channels, height, width = image_of(first, "item 0").shape
        labels = labels_of(items)
        if labels is None:
            if len(items) >= _MANY_ITEMS:
                note(f"{len(items):,} items are read once for their labels; a data set with `targets` is not")
            labels = [label_of(_item(items, i), f"item {i}") for i in range(len(items))]
        labels = as_labels(labels, len(items))
        if classes is None:
            classes = getattr(items, "classes", None)
        names = [str(i) for i in range(int(labels.max()) + 1)] if classes is None else classes
        read = item_targets(first)
        return cls(items, labels, as_classes(names), (channels, height, width), workers, read=read)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Streamed":
        """Put the batches on a device."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return replace(self, labels=self.labels.to(device), targets=targets)

    def select(self, index: Int64[Tensor, " m"] | slice) -> "Streamed":
        """Select images by index."""
        indices = _as_indices(len(self), index)
        targets = {name: target[indices] for name, target in self.targets.items()}
        return replace(self, items=Selection.of(self.items, indices), labels=self.labels[indices], targets=targets)

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Streamed":
        """Replace the labels."""
        return replace(self, labels=labels)

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch:
        """Read the images at `index` in this process, as a batch scaled to [0, 1]."""
        (batch,) = replace(self, workers=0).stream([_as_indices(len(self), index)])
        return batch

    @checked_arguments
    def in_order(self, batch_size: Positive[int]) -> Iterator[Batch]:
        """Iterate over all images once, in order."""
        return self.stream(torch.arange(len(self)).split(batch_size))

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]:
        """Iterate over the batches of `indices`, in order; workers read ahead."""
        lists = (index.tolist() for index in indices)
        loader: Iterable[Any] = DataLoader(
            _BatchReader(self.items, self.shape, self.read),  # type: ignore[arg-type]
            batch_size=None,
            sampler=lists,
            num_workers=self.workers,
            **worker_options(self.workers),
        )
        device = self.labels.device
        for result in iterate_workers(loader) if self.workers else loader:
            if isinstance(result, str):
                raise InputError(result)
            indices_read, pixels, read = result
            pixels = pixels.to(device, non_blocking=True)
            targets = {name: target.batch(indices_read) for name, target in self.targets.items()}
            targets |= {name: values.to(device, non_blocking=True) for name, values in read.items()}
            images = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
            yield Batch(images, {LABEL: self.labels[indices_read], **targets})


def _item(items: Items, index: int) -> Any:
    """Read an item; errors of the data set become InputErrors that name the item."""
    try:
        return items[index]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"item {index} can't be read: {type(error).__name__}: {one_line(error)}") from error


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of a `DataLoader` about its processes."""
    return {"worker_init_fn": _lower_priority, "multiprocessing_context": _start_method() if workers else None}


def _start_method() -> str | None:
    """Start method of workers: fork on Linux, which does not import the script again; elsewhere the default."""
    return "fork" if sys.platform == "linux" else None


_GUARD = "put the body of the script under `if __name__ == '__main__':`, or read with workers=0"


def iterate_workers(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a loader; raises InputError if spawned workers fail because they run an unguarded script again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)  # this is a spawned worker that runs the script: its parent raises the InputError
    try:
        yield from loader
    except RuntimeError as error:
        if _start_method() is None and "DataLoader worker" in str(error):
            raise InputError(f"the processes that read images ended: {_GUARD}") from error
        raise


def _lower_priority(worker: int) -> None:
    """Let training have the cores if there are too few: its threads wait for each other at every step."""
    if hasattr(os, "nice"):  # Windows has none
        os.nice(5)


@dataclass(frozen=True)
class Selection:
    """Some of the items of a data set."""

    items: Items
    indices: Int64[Tensor, " m"]

    @classmethod
    def of(cls, items: Items, indices: Int64[Tensor, " m"]) -> "Selection":
        """Select items; a selection of a selection is one of the first items."""
        if isinstance(items, Selection):
            return cls(items.items, items.indices[indices])
        return cls(items, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.items[int(self.indices[index])]


@dataclass(frozen=True)
class _BatchReader:
    """Data set of batches: `reader[indices]` is (indices, images [b c h w], targets), or an InputError's message."""

    items: Items
    shape: tuple[int, int, int]
    read: Mapping[str, ItemTarget]

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, dict[str, Tensor]] | str:
        images, targets = [], []
        for i in indices:
            try:
                item = _item(self.items, i)
                images.append(image_of(item, f"item {i}", self.shape))
                targets.append({name: kind.of(item, name, f"item {i}") for name, kind in self.read.items()})
            except InputError as error:
                return str(error)
        if len({image.dtype for image in images}) > 1:
            images = [image / 255 if image.dtype == torch.uint8 else image for image in images]
        pixels = torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)
        stacked = {
            name: torch.stack([each[name] for each in targets]) if targets else kind.none()
            for name, kind in self.read.items()
        }
        return torch.tensor(indices, dtype=torch.int64), pixels, stacked


def _as_indices(count: int, index: Int64[Tensor, " m"] | slice) -> Int64[Tensor, " m"]:
    return torch.arange(count)[index if isinstance(index, slice) else index.cpu()]
