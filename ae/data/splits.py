"""Training, validation and test images, and how they are split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ae.data.augment import Augment
from ae.data.batches import Batches
from ae.data.images import ImageSet
from ae.data.sequential import Sequential, SequentialBatches
from ae.utils.errors import InputError
from ae.utils.seeding import generator


@dataclass(frozen=True)
class Splits:
    """Training and validation images, and a function that reads the test images.

    Call `test` once, at the end. `augment`, `labelled_per_batch` and `binarise` are arguments of `Batches`; they
    concern training batches only. Raises InputError if the classes of training and validation differ.
    """

    train: ImageSet
    validation: ImageSet | None = None
    test: Callable[[], ImageSet] | None = None
    augment: Augment = Augment()
    labelled_per_batch: int | None = None
    binarise: bool = False

    def __post_init__(self) -> None:
        for name, images in (("train", self.train), ("validation", self.validation)):
            if not isinstance(images, ImageSet) and (images is not None or name == "train"):
                raise InputError(f"Splits.{name} must be Images or Streamed, got {type(images).__name__}")
        if self.validation is not None and self.validation.classes not in ((), self.train.classes):
            difference = _first_difference(self.train.classes, self.validation.classes)
            raise InputError(f"training and validation must have the same classes, got {difference}")
        if self.validation is not None and set(target_names(self.train)) != set(target_names(self.validation)):
            got = [", ".join(target_names(images)) or "none" for images in (self.train, self.validation)]
            raise InputError(f"training and validation must have the same targets, got {got[0]} and {got[1]}")
        if self.test is not None and not callable(self.test):
            raise InputError(f"Splits.test must be a function that reads the images, got {type(self.test).__name__}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.train.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.train.classes

    @property
    def class_count(self) -> int:
        """Number of classes; raises InputError if there are none."""
        if not self.classes:
            raise InputError("the data have no classes to learn: every image needs a label, such as its folder's name")
        return len(self.classes)

    def to(self, device: torch.device | str) -> "Splits":
        """Copy training and validation images to a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation)

    def batches(self, batch_size: int, seed: int) -> Batches:
        """Make batches of the training images."""
        if isinstance(self.train, Sequential):
            if self.labelled_per_batch is not None or self.binarise:
                option = "binarise" if self.binarise else "labelled_per_batch"
                raise InputError(f"images that are read in sequence have no Data.{option}: leave it out")
            return SequentialBatches(self.train, batch_size, seed, self.augment)
        return Batches(self.train, batch_size, seed, self.augment, self.labelled_per_batch, self.binarise)


def target_names(images: ImageSet) -> tuple[str, ...]:
    """Names of the targets beside the labels, in memory and read with the items."""
    return (*getattr(images, "targets", {}), *getattr(images, "read", {}))


def _first_difference(train: Sequence[str], validation: Sequence[str]) -> str:
    """Describe how class names differ: by their numbers, or by the first name that differs."""
    if len(train) != len(validation):
        return f"{len(train)} and {len(validation)}"
    pairs = enumerate(zip(train, validation, strict=True))
    return next(f"{a!r:.60} and {b!r:.60} as class {i}" for i, (a, b) in pairs if a != b)


def hold_out(data: ImageSet, count: int) -> tuple[ImageSet, ImageSet | None]:
    """Split off `count` random images: (training, validation). The split is the same at every call.

    Of images that are read in sequence, the first are split off.
    """
    if count >= len(data):
        raise InputError(f"Data.validation must be less than the {len(data)} training images, got {count}")
    if isinstance(data, Sequential):
        return data.hold_out(count) if count else (data, None)
    order = torch.randperm(len(data), generator=generator("validation"))
    train_count = len(data) - count
    return data.select(order[:train_count]), data.select(order[train_count:]) if count else None


def keep_labels(data: ImageSet, count: int, seed: int) -> ImageSet:
    """Keep `count` labels, balanced over the classes and chosen by `seed`; set all others to -1."""
    classes = len(data.classes)
    if count < classes:
        raise InputError(f"Data.labels must be at least the number of classes, {classes}, got {count}")
    labels = torch.full_like(data.labels, -1)
    for c in range(classes):
        class_count = count // classes + (c < count % classes)
        members = (data.labels == c).nonzero().flatten()
        if class_count > len(members):
            available = f"class {data.classes[c]}, which has {len(members)}"
            raise InputError(f"Data.labels={count} needs {class_count} of {available}")
        order = torch.randperm(len(members), generator=generator("labels", seed, c))
        labels[members[order[:class_count]]] = c
    return data.relabelled(labels)
