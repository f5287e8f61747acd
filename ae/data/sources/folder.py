"""Folders of images: one folder per class, or any folders with a CSV file of targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ae.data.decode import INFERRED, GivenForm
from ae.data.files import Files, decoded, open_files
from ae.data.images import Images, ImageSet
from ae.data.scan import Labelled, scan
from ae.data.sources.csv_targets import map_files, read_targets, split_labels
from ae.data.sources.source import NO_TEST_IMAGES, Source, held_out_for_test
from ae.data.streamed import Streamed
from ae.data.targets import Target
from ae.utils.errors import InputError


def read_folder(
    root: Path,
    form: GivenForm = INFERRED,
    workers: int | None = None,
    skip_broken: bool = False,
    targets: Path | None = None,
) -> Source[ImageSet]:
    """Read a folder with one folder of images per class, or with such folders in `train`, `val` and `test`.

    `ae.data.scan` says which files are read. Without a `test` folder, a fixed tenth of the training images is held out.
    Images are grey if all are grey, else RGB. EXIF orientation is applied, and transparent images are on white.

    form         size, channels and value of white of the images; without a size, all must have the same
    workers      stream the images with this many processes, instead of holding them in memory
    skip_broken  leave out files that are not images
    targets      CSV file of targets (`ae.data.sources.csv_targets`); with it, images need no folders of classes, and
                 its column `label` or `class` replaces these

    All files are checked, test files included. Raises InputError for a folder without images, and lists broken files.
    """
    maps = set() if targets is None else map_files(targets, root)
    scanned = scan(root, needs_classes=targets is None, left_out=maps)
    train_files, test_files = scanned.train, scanned.test
    if test_files is None:
        train_index, test_index = held_out_for_test(len(train_files))
        test_files = [train_files[i] for i in test_index.tolist()]
        train_files = [train_files[i] for i in train_index.tolist()]
    parts: dict[str, Labelled] = {"train": train_files, "test": test_files, "validation": scanned.validation or []}
    opened: dict[str, Files] = {}
    first = 0
    for name, labelled in parts.items():
        if labelled:
            paths = [path for path, _ in labelled]
            like = opened["train"].form if opened else None
            opened[name] = open_files(paths, range(first, first + len(paths)), form, like, skip_broken)
            first += len(paths)
        elif name == "test":
            raise InputError(NO_TEST_IMAGES)
    every = [file for labelled in parts.values() for file in labelled]
    known_of_all = _targets_of(every, scanned.classes, root, targets, None if workers else opened["train"].form.shape)

    def read(files: Files) -> ImageSet:
        return _read(files, known_of_all, workers, skip_broken)

    validation = read(opened["validation"]) if "validation" in opened else None
    return Source(read(opened["train"]), lambda: read(opened["test"]), validation)


@dataclass(frozen=True)
class _Known:
    """Labels, their classes, and targets of all files, in the order of the numbers that `Files.labels` holds."""

    labels: Tensor
    classes: tuple[str, ...]
    targets: dict[str, Target]


def _targets_of(
    files: Labelled, classes: tuple[str, ...], root: Path, targets: Path | None, size: tuple[int, int] | None
) -> _Known:
    labels = torch.tensor([label for _, label in files])
    if targets is None:
        return _Known(labels, classes, {})
    read = read_targets(targets, [path for path, _ in files], root, size)
    column, others = split_labels(read)
    if column is not None:
        labels, classes = column.values, column.classes
    return _Known(labels, classes, others)


def _read(files: Files, known: _Known, workers: int | None, skip_broken: bool) -> ImageSet:
    """Open a part as a stream, or decode it; `files.labels` are the numbers of its files."""

    def of(numbers: Sequence[int]) -> tuple[Tensor, dict[str, Target]]:
        index = torch.tensor(numbers)
        return known.labels[index], {name: target[index] for name, target in known.targets.items()}

    if workers is not None:
        labels, targets = of(files.labels)
        files = replace(files, labels=labels.tolist())
        return Streamed(files, labels, known.classes, files.form.tensor_shape, workers, targets)
    pixels, numbers = decoded(files, skip_broken)
    labels, targets = of(numbers)
    return Images(pixels, labels, known.classes, targets)
