"""Options of a command line that choose a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ae.data import sources
from ae.data.augment import Augment
from ae.data.columns import Columns
from ae.data.decode import GivenForm
from ae.data.images import Images, ImageSet
from ae.data.splits import Splits, hold_out, keep_labels
from ae.utils.errors import InputError
from ae.utils.shared_memory import once_per_machine
from ae.utils.validation import AtLeast0, BelowOne, Positive, Settings

_VALIDATION = 5000
_VALIDATION_SHARE = 10  # at most 1/10 of the training images
_READ_BY = {  # names of the data sets for which a field is read
    "targets": ("folder",),
    "size": ("folder", "hub"),
    "channels": ("folder", "hub"),
    "white": ("folder", "hub"),
    "image_column": ("hub",),
    "label_column": ("hub",),
    "target_columns": ("hub",),
    "skip_broken": ("folder",),
    "stream": ("folder", "arrays", "hub"),
    "hold": ("hub",),
    "buffer": ("hub",),
    "stream_images": ("hub",),
}
Name = Literal["mnist", "fashion-mnist", "kmnist", "emnist-digits", "cifar10", "svhn", "folder", "arrays", "hub"]


@dataclass(frozen=True)
class Data(Settings):
    """Data set, split, and training batches."""

    name: Name = "mnist"  # mnist comes with the package; folder: one folder of images per class
    root: Path | None = None  # where the data are; hub: ORG/NAME, or files (default: downloads in data)
    targets: Path | None = None  # folder: CSV file of targets, a column of file names and one of each target
    size: Positive[int] | tuple[Positive[int], Positive[int]] | None = None  # folder, hub: height and width to crop to
    channels: Literal[1, 3] | None = None  # folder, hub: 1 grey, 3 colour (default: grey if all images are)
    white: Positive[int] | None = None  # folder, hub: value of white of images of more than 8 bits (default: refuse)
    image_column: str | None = None  # hub: column of images (default: the only one)
    label_column: str | None = None  # hub: column of labels (default: label, or the only one of classes)
    target_columns: tuple[str, ...] = ()  # hub: columns of other targets
    stream: bool = False  # read images while training, for data larger than memory; hub: in sequence, than the disk
    hold: bool = False  # hub: decode all images once, and hold them in memory
    buffer: Positive[int] = 4096  # hub, streamed: consecutive images that are shuffled together
    stream_images: Positive[int] | None = None  # hub, streamed: training images, if the data set does not state it
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
        unread = {
            name: f"by {self.name}, only by {_either(by)}" for name, by in _READ_BY.items() if self.name not in by
        }
        if not (self.stream or self.name == "hub"):
            unread["workers"] = "without Data.stream"
        if self.name == "hub" and not self.stream:
            unread |= dict.fromkeys(("buffer", "stream_images"), "without Data.stream")
        if self.is_sequential:
            unread["hold"] = "of a stream of the Hub"
            unread |= dict.fromkeys(("limit", "labels", "labelled_per_batch", "binarise"), "of a stream of the Hub")
        if self.labels is None:
            unread["seed"] = "without Data.labels"
        for name, reason in unread.items():
            if getattr(self, name) != getattr(Data, name):
                raise InputError(f"Data.{name} is not read {reason}: leave it out")
        if self.stream and self.binarise:
            raise InputError("images that are streamed can't be binarised: leave out one of stream and binarise")

    @property
    def is_sequential(self) -> bool:
        """Whether training images are read in sequence."""
        return self.name == "hub" and self.stream

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
        if self.binarise and not isinstance(source.train, Images):
            hint = "; Data.hold does so" if self.name == "hub" else ""
            raise InputError(f"only images of 8 bits that are held in memory can be binarised{hint}")
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
                f"Data.validation must be left out, or 0: {self.root} has validation images of its own, "
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
        form = GivenForm(self.size, self.channels, self.white)
        match self.name:
            case "mnist":
                return sources.read_mnist() if self.root is None else sources.read_idx_folder("mnist", self.root)
            case "folder":
                if self.root is None:
                    raise InputError("data set folder needs Data.root: a folder with a folder of images for each class")
                workers = self.workers if self.stream else None
                return sources.read_folder(self.root, form, workers, self.skip_broken, self.targets)
            case "arrays":
                if self.root is None:
                    raise InputError("data set arrays needs Data.root: a file .npz, .npy, .safetensors or .h5")
                return sources.read_arrays(self.root, self.workers if self.stream else None)
            case "hub":
                if self.root is None:
                    raise InputError("data set hub needs Data.root: ORG/NAME on the Hub, a folder, or files of tables")
                columns = Columns(self.image_column, self.label_column, self.target_columns)
                stream = sources.Streaming(self.buffer, self.stream_images) if self.stream else None
                return sources.read_hub(self.root, form, self.workers, columns, stream, self.hold)
            case name:
                return sources.read_torchvision(name, self.root or Path("data"))


def _either(names: Sequence[str]) -> str:
    """List names of data sets: `folder or arrays`."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
