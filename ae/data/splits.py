"""Which images train, which validate, which test; and how a command line says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ae.data import sources
from ae.data.augment import Augment
from ae.data.images import Batches, Images, ImageSet
from ae.utils.errors import InputError
from ae.utils.seeding import generator
from ae.utils.shared_memory import once_per_machine
from ae.utils.validation import AtLeast0, Positive, Settings

_VALIDATION = 5000
_VALIDATION_SHARE = 10  # of the training images, where this is less
Name = Literal["mnist", "fashion-mnist", "kmnist", "emnist-digits", "cifar10", "svhn", "folder"]


@dataclass(frozen=True)
class Splits:
    """Training and validation images, and a function that reads the test images, to be called once, at the end."""

    train: ImageSet
    validation: ImageSet | None = None
    test: Callable[[], ImageSet] | None = None
    augment: Augment = Augment()
    labelled_per_batch: int | None = None
    binarise: bool = False  # the training images, anew each time

    def __post_init__(self) -> None:
        for name, images in (("train", self.train), ("validation", self.validation)):
            if not isinstance(images, ImageSet) and (images is not None or name == "train"):
                raise InputError(f"Splits.{name} must be Images or Streamed, got {type(images).__name__}")
        if self.validation is not None and self.validation.classes not in ((), self.train.classes):
            difference = _first_difference(self.train.classes, self.validation.classes)
            raise InputError(f"training and validation must have the same classes, got {difference}")
        if self.test is not None and not callable(self.test):
            raise InputError(f"Splits.test must be a function that reads the images, got {type(self.test).__name__}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.train.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.train.classes

    @property
    def class_count(self) -> int:
        """How many classes there are; raises InputError where there are none."""
        if not self.classes:
            raise InputError("the data have no classes to learn: every image needs a label, such as its folder's name")
        return len(self.classes)

    def to(self, device: torch.device | str) -> "Splits":
        """The same with its images on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation)

    def batches(self, batch_size: int, seed: int) -> Batches:
        """The training images in batches."""
        return Batches(self.train, batch_size, seed, self.augment, self.labelled_per_batch, self.binarise)


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """The numbers of classes, or where these are equal the first name that differs."""
    if len(one) != len(other):
        return f"{len(one)} and {len(other)}"
    return next(
        f"{a!r:.60} and {b!r:.60} as class {i}" for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b
    )


@dataclass(frozen=True)
class Data(Settings):
    """Which data set, and how much of it."""

    name: Name = "mnist"  # mnist comes with the package; folder: a folder of images for each class
    root: Path | None = None  # where the data set is, or is downloaded to (else the folder data); mnist: IDX files
    size: Positive[int] | None = None  # folder: resize and crop every image to this many pixels square
    stream: bool = False  # folder: read images while training, for data that do not fit in memory
    workers: AtLeast0[int] = 2  # processes that read ahead, where images are streamed
    skip_broken: bool = False  # folder: leave out files that can't be read, and say which
    validation: AtLeast0[int] | None = None  # training images held out (default: 5,000, at most a tenth); 0: none
    limit: Positive[int] | None = None  # train on so many images at most
    labels: Positive[int] | None = None  # keep so many labels, as many of each class; the other images are unlabelled
    labelled_per_batch: Positive[int] | None = None  # so many images of every batch are labelled ones
    seed: int = 0  # chooses which labels are kept
    augment: Augment = Augment()
    binarise: bool = False  # draw pixels as 0 or 1, grey as probability: anew each time in training, once to evaluate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream and self.name != "folder":
            raise InputError(f"only a folder can be streamed, not {self.name}")
        reads = {"size": self.name == "folder", "skip_broken": self.name == "folder"}
        reads |= {"workers": self.stream, "seed": self.labels is not None}
        needs = {"workers": "Data.stream", "seed": "Data.labels"}
        for name, is_read in reads.items():
            if not is_read and getattr(self, name) != getattr(Data, name):
                need = f"without {needs[name]}" if name in needs else f"by {self.name}, only by a folder"
                raise InputError(f"Data.{name} is not read {need}: leave it out")
        if self.stream and self.binarise:
            raise InputError("images that are streamed can't be binarised: leave out one of stream and binarise")

    def may_change(self, name: str) -> bool:
        """A run may be continued where the data are somewhere else, or are read by other processes."""
        return name in ("root", "workers")

    def load(self) -> Splits:
        """Read the data set and split it; raises InputError where it can't be read or split as asked.

        Of several processes on a machine one does this, for all of them.
        """
        tests: list[Callable[[], ImageSet]] = []

        def read() -> tuple[ImageSet, ImageSet | None]:
            source = self._source()
            tests.append(lambda: self._evaluated(source.test(), "test"))
            train, validation = self._split(source)
            if validation is not None:
                validation = self._evaluated(validation, "validation")
            if self.limit is not None:
                train = train.select(slice(self.limit))
            if self.labels is not None:
                train = keep_labels(train, self.labels, self.seed)
            return train, validation

        train, validation = once_per_machine(read)
        read_test = partial(once_per_machine, lambda: tests[0]())
        return Splits(train, validation, read_test, self.augment, self.labelled_per_batch, self.binarise)

    def _split(self, source: sources.Source[ImageSet]) -> tuple[ImageSet, ImageSet | None]:
        """The training images and those to validate on: a part of the source's own, or held out."""
        if source.validation is None:
            default = min(_VALIDATION, len(source.train) // _VALIDATION_SHARE)
            return hold_out(source.train, default if self.validation is None else self.validation)
        if self.validation:
            raise InputError(
                f"Data.validation must be left out, or 0: {self.root} has a folder of validation images, "
                f"got {self.validation}"
            )
        return source.train, source.validation if self.validation is None else None

    def _evaluated(self, images: ImageSet, key: str) -> ImageSet:
        return images.binarised(key) if self.binarise and isinstance(images, Images) else images

    def _source(self) -> sources.Source[ImageSet]:
        match self.name:
            case "mnist":
                return sources.mnist() if self.root is None else sources.idx("mnist", self.root)
            case "folder":
                if self.root is None:
                    raise InputError("data set folder needs Data.root: a folder with a folder of images for each class")
                return sources.folder(self.root, self.size, self.workers if self.stream else None, self.skip_broken)
            case name:
                return sources.from_torchvision(name, self.root or Path("data"))


def hold_out(data: ImageSet, count: int) -> tuple[ImageSet, ImageSet | None]:
    """The data in a fixed random order without its last `count` images, and these; the same split at every call."""
    if count >= len(data):
        raise InputError(f"Data.validation must be less than the {len(data)} training images, got {count}")
    order = torch.randperm(len(data), generator=generator("validation"))
    keep = len(data) - count
    return data.select(order[:keep]), data.select(order[keep:]) if count else None


def keep_labels(data: ImageSet, count: int, seed: int) -> ImageSet:
    """The same images with `count` labels, as many of each class as can be, chosen by `seed`; the others become -1."""
    classes = len(data.classes)
    if count < classes:
        raise InputError(f"Data.labels must be at least the number of classes, {classes}, got {count}")
    labels = torch.full_like(data.labels, -1)
    for c in range(classes):
        wanted = count // classes + (c < count % classes)
        members = (data.labels == c).nonzero().flatten()
        if wanted > len(members):
            raise InputError(f"Data.labels={count} needs {wanted} of class {data.classes[c]}, which has {len(members)}")
        order = torch.randperm(len(members), generator=generator("labels", seed, c))
        labels[members[order[:wanted]]] = c
    return data.relabelled(labels)
