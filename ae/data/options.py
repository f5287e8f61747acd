"""Options of a command line that choose a data set."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ae.data import sources
from ae.data.augment import Augment
from ae.data.images import Images, ImageSet
from ae.data.splits import Splits, hold_out, keep_labels
from ae.utils.errors import InputError
from ae.utils.shared_memory import once_per_machine
from ae.utils.validation import AtLeast0, BelowOne, Positive, Settings

_VALIDATION = 5000
_VALIDATION_SHARE = 10  # at most 1/10 of the training images
Name = Literal["mnist", "fashion-mnist", "kmnist", "emnist-digits", "cifar10", "svhn", "folder"]


@dataclass(frozen=True)
class Data(Settings):
    """Data set, split, and training batches."""

    name: Name = "mnist"  # mnist comes with the package; folder: one folder of images per class
    root: Path | None = None  # folder of the data set, or of its download (default: data); mnist: IDX files
    targets: Path | None = None  # folder: CSV file of targets, a column of file names and one of each target
    size: Positive[int] | tuple[Positive[int], Positive[int]] | None = None  # folder: height and width to crop to
    stream: bool = False  # folder: read images while training, for data that do not fit in memory
    workers: AtLeast0[int] = 2  # processes that read streamed images ahead
    skip_broken: bool = False  # folder: leave out files that can't be read, and list them
    validation: AtLeast0[int] | BelowOne | None = None  # training images held out, a count or a fraction; 0: none
    limit: Positive[int] | None = None  # largest number of training images
    labels: Positive[int] | None = None  # number of labels to keep, balanced over classes; the rest are unlabelled
    labelled_per_batch: Positive[int] | None = None  # labelled images in every batch
    seed: int = 0  # chooses which labels are kept
    augment: Augment = Augment()
    binarise: bool = False  # sample pixels as 0 or 1, grey as probability: in training at each use, else once

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream and self.name != "folder":
            raise InputError(f"only a folder can be streamed, not {self.name}")
        is_read = {"size": self.name == "folder", "skip_broken": self.name == "folder"}
        is_read |= {"targets": self.name == "folder"}
        is_read |= {"workers": self.stream, "seed": self.labels is not None}
        requires = {"workers": "Data.stream", "seed": "Data.labels"}
        for name in is_read:
            if not is_read[name] and getattr(self, name) != getattr(Data, name):
                reason = f"without {requires[name]}" if name in requires else f"by {self.name}, only by a folder"
                raise InputError(f"Data.{name} is not read {reason}: leave it out")
        if self.stream and self.binarise:
            raise InputError("images that are streamed can't be binarised: leave out one of stream and binarise")

    def may_change(self, name: str) -> bool:
        """Whether a resumed run may change this field: where the data are, and how many processes read them."""
        return name in ("root", "targets", "workers")

    def load(self) -> Splits:
        """Read the data set and split it; raises InputError if it can't be read or split.

        With several processes, one process per machine reads, and all share its memory.
        """
        source = cache(self._source)  # opened by the process that reads, which also reads the test images
        train, validation = once_per_machine(lambda: self._split(source()))

        def read_test() -> ImageSet:
            return once_per_machine(lambda: self._binarised(source().test(), "test"))

        return Splits(train, validation, read_test, self.augment, self.labelled_per_batch, self.binarise)

    def _split(self, source: sources.Source[ImageSet]) -> tuple[ImageSet, ImageSet | None]:
        """Training images with the limit and labels asked for, and validation images."""
        train, validation = self._train_and_validation(source)
        if validation is not None:
            validation = self._binarised(validation, "validation")
        if self.limit is not None:
            train = train.select(slice(self.limit))
        if self.labels is not None:
            train = keep_labels(train, self.labels, self.seed)
        return train, validation

    def _train_and_validation(self, source: sources.Source[ImageSet]) -> tuple[ImageSet, ImageSet | None]:
        """Training images, and the validation images of the source or some held out."""
        if source.validation is None:
            return hold_out(source.train, self._validation_count(len(source.train)))
        if self.validation:
            raise InputError(
                f"Data.validation must be left out, or 0: {self.root} has a folder of validation images, "
                f"got {self.validation}"
            )
        return source.train, source.validation if self.validation is None else None

    def _validation_count(self, images: int) -> int:
        """The number of training images to hold out; of a fraction above 0, at least one."""
        if self.validation is None:
            return min(_VALIDATION, images // _VALIDATION_SHARE)
        if isinstance(self.validation, int) or not self.validation:
            return int(self.validation)
        return max(1, round(images * self.validation))

    def _binarised(self, images: ImageSet, key: str) -> ImageSet:
        return images.binarised(key) if self.binarise and isinstance(images, Images) else images

    def _source(self) -> sources.Source[ImageSet]:
        match self.name:
            case "mnist":
                return sources.read_mnist() if self.root is None else sources.read_idx_folder("mnist", self.root)
            case "folder":
                if self.root is None:
                    raise InputError("data set folder needs Data.root: a folder with a folder of images for each class")
                workers = self.workers if self.stream else None
                return sources.read_folder(self.root, self.size, workers, self.skip_broken, self.targets)
            case name:
                return sources.read_torchvision(name, self.root or Path("data"))
