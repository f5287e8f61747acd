"""A data set that does not fit in memory: read item by item, in worker processes, when a batch asks for it."""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ae.data.files import note
from ae.data.images import Batch, as_classes, as_labels
from ae.data.items import image_of, label_of, labels_of
from ae.utils.errors import InputError, one_line
from ae.utils.validation import AtLeast0, Positive, checked, checked_arguments

_MANY_ITEMS = 5000


@runtime_checkable
class Items(Protocol):
    """A map-style data set, as PyTorch's `Dataset` is: item i is (image, label), or another form that `items` reads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Streamed:
    """A data set that is read while it is used; in all else as `Images`.

    items    item i is (image, label), a mapping with `image`, or an image alone; an image is uint8 or float in [0, 1],
             [c h w], [h w] or [h w c], or one of Pillow's
    labels   [n] the labels of all items, whole numbers; -1 = unlabelled
    shape    (channels, height, width) of every image
    workers  processes that read ahead; what they give, and in which order, is the same for any number; 0: none
    """

    items: Items
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    workers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", checked(self.workers, AtLeast0[int], "workers"))
        if not len(self.items):
            raise InputError("no images: the data set is empty")
        object.__setattr__(self, "classes", as_classes(self.classes))
        if not hasattr(self.labels, "__len__") or len(self.labels) != len(self.items):
            got = len(self.labels) if hasattr(self.labels, "__len__") else type(self.labels).__name__
            raise InputError(f"must have a label for each of {len(self.items)} images, got {got}")
        object.__setattr__(self, "labels", as_labels(self.labels, len(self.items), len(self.classes)))
        sides = checked(self.shape, tuple[Positive[int], Positive[int], Positive[int]], "shape")
        object.__setattr__(self, "shape", sides)

    @classmethod
    @checked_arguments
    def of(cls, items: Items, classes: Sequence[str] | None = None, workers: AtLeast0[int] = 2) -> "Streamed":
        """A data set of which the items alone are known: the first one tells the shape.

        Labels are those of `items.targets` or `items.labels`, where there are such; else every item is read (decoded)
        once for its label, which is said on stderr where there are many. Classes are by default those of
        `items.classes`, else the numbers up to the highest label.
        """
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise InputError(f"items must be a Dataset with a length, of (image, label), got {type(items).__name__}")
        if not len(items):
            raise InputError("no images: the data set is empty")
        channels, height, width = image_of(_item(items, 0), "item 0").shape
        labels = labels_of(items)
        if labels is None:
            if len(items) >= _MANY_ITEMS:
                note(f"{len(items):,} items are read once for their labels; a data set with `targets` is not")
            labels = [label_of(_item(items, i), f"item {i}") for i in range(len(items))]
        found = as_labels(labels, len(items))
        own = getattr(items, "classes", None) if classes is None else classes
        names = [str(i) for i in range(int(found.max()) + 1)] if own is None else own
        return cls(items, found, as_classes(names), (channels, height, width), workers)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Streamed":
        """The same, with its batches on another device."""
        return replace(self, labels=self.labels.to(device))

    def select(self, index: Int64[Tensor, " m"] | slice) -> "Streamed":
        """The images of this index."""
        places = _places(len(self), index)
        return replace(self, items=_Selected(self.items, places.tolist()), labels=self.labels[places])

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Streamed":
        """The same images with other labels."""
        return replace(self, labels=labels)

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch:
        """The batch of this index, scaled to [0, 1]; read in this process."""
        (batch,) = replace(self, workers=0).stream([_places(len(self), index)])
        return batch

    @checked_arguments
    def in_order(self, batch_size: Positive[int]) -> Iterator[Batch]:
        """Every image once, in order."""
        return self.stream(torch.arange(len(self)).split(batch_size))

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]:
        """The batches of these indices, in their order; workers read ahead."""
        lists = (index.tolist() for index in indices)
        loader: Iterable[Any] = DataLoader(
            _Stacking(self.items, self.shape),  # type: ignore[arg-type]
            batch_size=None,
            sampler=lists,
            num_workers=self.workers,
            worker_init_fn=_step_back,
            multiprocessing_context=_start_method() if self.workers else None,
        )
        device = self.labels.device
        for found in _read(loader) if self.workers else loader:
            if isinstance(found, str):
                raise InputError(found)
            places, pixels = found
            pixels = pixels.to(device, non_blocking=True)
            yield Batch(pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels, self.labels[places])


def _item(items: Items, index: int) -> Any:
    """An item; whatever the data set raises of it becomes an InputError that names the item."""
    try:
        return items[index]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"item {index} can't be read: {type(error).__name__}: {one_line(error)}") from error


def _start_method() -> str | None:
    """How workers begin: as forks on Linux, which do not run the script again; elsewhere as the system does it."""
    return "fork" if sys.platform == "linux" else None


_GUARD = "put what the script does under `if __name__ == '__main__':`, or read with workers=0"


def _read(loader: Iterable[Any]) -> Iterator[Any]:
    """Read with worker processes; raises InputError where they can't begin, since each runs the script again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)  # a worker that runs the script again: the process that began it says what to do
    try:
        yield from loader
    except RuntimeError as error:
        if _start_method() is None and "DataLoader worker" in str(error):
            raise InputError(f"the processes that read images ended: {_GUARD}") from error
        raise


def _step_back(worker: int) -> None:
    """Readers leave the cores to the training where they are too few: its threads wait for each other at every step."""
    if hasattr(os, "nice"):  # Windows has none
        os.nice(5)


@dataclass(frozen=True)
class _Selected:
    """Some of the items of a data set."""

    items: Items
    places: list[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.places[index]]


@dataclass(frozen=True)
class _Stacking:
    """Given the places of a batch, these and its images [b c h w]; or what is wrong with one of them, as a text."""

    items: Items
    shape: tuple[int, int, int]

    def __getitem__(self, places: list[int]) -> tuple[Tensor, Tensor] | str:
        images = []
        for place in places:
            try:
                image = image_of(_item(self.items, place), f"item {place}", self.shape)
            except InputError as error:
                return str(error)
            images.append(image)
        if len({image.dtype for image in images}) > 1:
            images = [image / 255 if image.dtype == torch.uint8 else image for image in images]
        pixels = torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)
        return torch.tensor(places, dtype=torch.int64), pixels


def _places(count: int, index: Int64[Tensor, " m"] | slice) -> Int64[Tensor, " m"]:
    return torch.arange(count)[index if isinstance(index, slice) else index.cpu()]
