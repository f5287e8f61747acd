"""A data set that does not fit in memory: read item by item, in worker processes, when a batch asks for it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ae.data.images import Batch
from ae.errors import InputError


@runtime_checkable
class Items(Protocol):
    """A map-style data set, as PyTorch's `Dataset` is: item i is (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Streamed:
    """A data set that is read while it is used; in all else as `Images`.

    items    item i is (image, label); an image is uint8 [c h w], or float32 [c h w] in [0, 1]
    labels   [n] the labels of all items; -1 = unlabelled
    shape    (channels, height, width) of every image
    workers  processes that read ahead; what they give, and in which order, is the same for any number; 0: none
    """

    items: Items
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers must be 0 or more, got {self.workers}")
        if not len(self.items):
            raise InputError("no images: the data set is empty")
        if len(self.labels) != len(self.items):
            raise InputError(f"must have a label for each of {len(self.items)} images, got {len(self.labels)}")

    @classmethod
    def of(cls, items: Items, classes: Sequence[str], workers: int = 2) -> "Streamed":
        """A data set of which the items alone are known: the first one tells the shape, and all are read for labels."""
        if not len(items):
            raise InputError("no images: the data set is empty")
        channels, height, width = items[0][0].shape
        labels = torch.tensor([int(items[i][1]) for i in range(len(items))])
        return cls(items, labels, tuple(classes), (channels, height, width), workers)

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

    def in_order(self, batch_size: int) -> Iterator[Batch]:
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
        )
        device = self.labels.device
        for found in loader:
            if isinstance(found, str):
                raise InputError(found)
            places, pixels = found
            pixels = pixels.to(device, non_blocking=True)
            yield Batch(pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels, self.labels[places])


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

    def __getitem__(self, index: int) -> tuple[Any, Any]:
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
                image, _ = self.items[place]
            except InputError as error:
                return str(error)
            if not isinstance(image, Tensor) or image.dtype not in (torch.uint8, torch.float32):
                kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
                return f"item {place} must be a tensor, uint8 or float32 in [0, 1], got {kind}"
            if tuple(image.shape) != self.shape:
                return f"item {place} must be {list(self.shape)}, got {list(image.shape)}"
            if image.dtype == torch.float32 and not (image.min() >= 0 and image.max() <= 1):
                return f"item {place} must lie in [0, 1], got {image.min():.4g} to {image.max():.4g}"
            images.append(image)
        pixels = torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)
        return torch.tensor(places, dtype=torch.int64), pixels


def _places(count: int, index: Int64[Tensor, " m"] | slice) -> Int64[Tensor, " m"]:
    return torch.arange(count)[index if isinstance(index, slice) else index.cpu()]
