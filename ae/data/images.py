"""A data set held whole on the device, and its batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ae.data.augment import Augment
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.seeding import generator
from ae.utils.validation import Positive, checked_arguments


@dataclass(frozen=True)
class Batch:
    """Images [b c h w] in [0, 1], and labels [b]; -1 = unlabelled."""

    images: Float[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A data set held whole: uint8 images [n c h w], labels [n] in 0..len(classes)-1, or -1 = unlabelled.

    Raises InputError where there is no image, or labels are out of range.
    """

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor):
            raise InputError(f"images must be a uint8 tensor [n c h w], got {type(self.pixels).__name__}")
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise InputError(f"images must be uint8 [n c h w], got {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.pixels.numel() == 0:
            raise InputError(f"no images: got {list(self.pixels.shape)}")
        object.__setattr__(self, "classes", as_classes(self.classes))
        object.__setattr__(self, "labels", as_labels(self.labels, len(self.pixels), len(self.classes)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def to(self, device: torch.device | str) -> "Images":
        """The same on another device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.classes)

    def select(self, index: Int64[Tensor, " m"] | slice) -> "Images":
        """The images of this index."""
        return Images(self.pixels[index], self.labels[index], self.classes)

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Images":
        """The same images with other labels."""
        return Images(self.pixels, labels, self.classes)

    def binarised(self, *key: str | int) -> "Images":
        """The same with every pixel drawn, by `key`, as 0 or 255, with its grey as the probability of 255."""
        white = torch.rand(self.pixels.shape, generator=generator("binarised", *key)) * 255 < self.pixels.cpu()
        return Images((white * 255).to(torch.uint8).to(self.pixels.device), self.labels, self.classes)

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch:
        """The batch of this index, scaled to [0, 1]."""
        if isinstance(index, slice):
            return Batch(self.pixels[index] / 255, self.labels[index])
        return Batch(self.pixels.index_select(0, index) / 255, self.labels.index_select(0, index))

    @checked_arguments
    def in_order(self, batch_size: Positive[int]) -> Iterator[Batch]:
        """Every image once, in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(slice(start, start + batch_size))

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]:
        """The batches of these indices, in their order."""
        for index in indices:
            yield self.batch(index.to(self.labels.device, non_blocking=True))


def as_labels(labels: Any, count: int, classes: int | None = None) -> Int64[Tensor, " n"]:
    """Labels as int64 [n], of a tensor, an array or a sequence of whole numbers of any integer type.

    Raises InputError for numbers of another kind (0.5, True), another count, or labels out of -1 to `classes` - 1.
    """
    try:
        found = labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be whole numbers [{count}], got {type(labels).__name__}") from error
    mixed_bool = not isinstance(labels, Tensor | np.ndarray) and any(isinstance(each, bool) for each in labels)
    is_whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or mixed_bool)
    if found.numel() and not is_whole:
        raise InputError(f"labels must be whole numbers, 0 for the first class, got {found.dtype}")
    if found.shape != (count,):
        raise InputError(f"labels must be [{count}], one for each image, got {list(found.shape)}")
    found = found.long()
    if classes is not None and count:
        low, high = found.aminmax()
        if low < -1 or high >= classes:
            wanted = (
                f"0 to {classes - 1}, or -1 for unlabelled" if classes else "-1 for unlabelled: there are no classes"
            )
            raise InputError(f"label out of range: must be {wanted}, got {low} to {high}")
    return found


def as_classes(classes: Any) -> tuple[str, ...]:
    """Names of classes as a tuple of text; raises InputError for anything else."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise InputError(f"classes must be a sequence of names, got {classes!r}")
    names = tuple(classes)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(f"classes must be a sequence of names, got {wrong[0]!r} among them")
    return names


@runtime_checkable
class ImageSet(Protocol):
    """Protocol of a data set: `Images`, held in memory, or `Streamed`, read while it is used."""

    @property
    def labels(self) -> Int64[Tensor, " n"]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> "ImageSet": ...

    def select(self, index: Int64[Tensor, " m"] | slice) -> "ImageSet": ...

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "ImageSet": ...

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch: ...

    def in_order(self, batch_size: int) -> Iterator[Batch]: ...

    def stream(self, indices: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]: ...


class Batches:
    """The training images in batches; their order is a function of seed and epoch alone.

    An epoch shows every image once, and its last batch may be smaller. With `labelled_per_batch`, every batch begins
    with that many labelled images, cycled in an order of their own, and fills up with the others, which the epoch shows
    once. With `binarise`, every pixel is drawn as 0 or 1 each time, with its grey as the probability of 1 (Burda et al.
    2016, section 5). Raises InputError where a batch is larger than the data, or can't be filled as asked.
    """

    @checked_arguments
    def __init__(
        self,
        data: ImageSet,
        batch_size: Positive[int],
        seed: int,
        augment: Augment | None = None,
        labelled_per_batch: int | None = None,
        binarise: bool = False,
    ) -> None:
        if batch_size > len(data):
            raise InputError(
                f"Recipe.batch_size must be at most {len(data)}, the number of training images, got {batch_size}"
            )
        self.data = data
        self.seed = seed
        self.augment = augment or Augment()
        self.binarise = binarise
        self._labelled, self._others = torch.arange(0), torch.arange(len(data))
        self._from_labelled, self._from_others = 0, batch_size
        if labelled_per_batch is not None:
            if not 0 < labelled_per_batch < batch_size:
                wanted = f"1 to {batch_size - 1} of a batch of {batch_size}"
                raise InputError(f"Data.labelled_per_batch must be {wanted}, got {labelled_per_batch}")
            has_label = data.labels.cpu() >= 0
            self._labelled, self._others = has_label.nonzero().flatten(), (~has_label).nonzero().flatten()
            self._from_labelled, self._from_others = labelled_per_batch, batch_size - labelled_per_batch
            if not len(self._labelled) or not len(self._others):
                raise InputError(
                    "Data.labelled_per_batch mixes labelled and unlabelled images, "
                    f"got {len(self._labelled)} and {len(self._others)}"
                )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._others) // self._from_others)

    def size(self, step: int) -> int:
        """How many images batch number `step` has."""
        seen = step % len(self) * self._from_others
        return self._from_labelled + min(self._from_others, len(self._others) - seen)

    def starting_at(self, step: int) -> Iterator[Batch]:
        """Batch number `step` of the training, counted from 0, and all that follow, epoch after epoch, without end.

        In several processes, each one's part of them.
        """
        places, again = tee(self._places(step))
        batches = self.data.stream(distributed.shard(index) for _, _, index in again)
        for (epoch, i, index), batch in zip(places, batches, strict=False):  # both without end
            if self.augment.moves:
                drawn = self.augment.draw(len(index), generator("augment", self.seed, epoch, i))
                batch = Batch(self.augment.apply(batch.images, distributed.shard(drawn, dim=1)), batch.labels)
            if self.binarise:
                drawn = torch.rand(len(index), *self.data.shape, generator=generator("binarise", self.seed, epoch, i))
                white = distributed.shard(drawn).to(batch.images.device, non_blocking=True) < batch.images
                batch = Batch(white.float(), batch.labels)
            yield batch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches."""
        return islice(self.starting_at(epoch * len(self)), len(self))

    def _places(self, step: int) -> Iterator[tuple[int, int, Int64[Tensor, " b"]]]:
        """Of batch number `step` and all that follow: epoch, place in it, and which images."""
        epoch, skip = divmod(step, len(self))
        while True:
            for i, index in enumerate(self.order(epoch)[skip:], start=skip):
                yield epoch, i, index
            epoch, skip = epoch + 1, 0

    def order(self, epoch: int) -> list[Int64[Tensor, " b"]]:
        """Which images each of the epoch's batches holds."""
        others = self._others[torch.randperm(len(self._others), generator=generator("order", self.seed, epoch))]
        batches = list(others.split(self._from_others))
        if self._from_labelled:
            first, count = epoch * len(batches) * self._from_labelled, len(batches) * self._from_labelled
            labelled = self._cycled(first, count).split(self._from_labelled)
            batches = [torch.cat(parts) for parts in zip(labelled, batches, strict=True)]
        return batches

    def _cycled(self, first: int, count: int) -> Int64[Tensor, " count"]:
        """Positions `first` to `first + count` of the labelled images, shown again and again in ever new orders."""
        n = len(self._labelled)
        cycles = range(first // n, (first + count - 1) // n + 1)
        orders = [torch.randperm(n, generator=generator("labelled", self.seed, cycle)) for cycle in cycles]
        return self._labelled[torch.cat(orders)[first % n :][:count]]
