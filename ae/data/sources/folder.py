"""Folders of images, one folder per class."""

from pathlib import Path

import torch

from ae.data.files import Files, decoded, open_files
from ae.data.images import Images, ImageSet
from ae.data.scan import Labelled, scan
from ae.data.sources.source import Source
from ae.data.streamed import Streamed
from ae.utils.errors import InputError

_TEST_SHARE = 0.1  # of the training images, held out where there is no test folder


def read_folder(
    root: Path, size: int | None = None, workers: int | None = None, skip_broken: bool = False
) -> Source[ImageSet]:
    """Read a folder with one folder of images per class, or with such folders in `train`, `val` and `test`.

    `ae.data.scan` says which files are read. Without a `test` folder, a fixed tenth of the training images is held out.
    Images are grey if all are grey, else RGB. EXIF orientation is applied, and transparent images are on white.

    size         resize the shorter side to `size` and crop the centre; without it, all images must have the same size
    workers      stream the images with this many processes, instead of holding them in memory
    skip_broken  leave out files that are not images

    All files are checked, test files included. Raises InputError for a folder without images, and lists broken files.
    """
    scanned = scan(root)
    train_files, test_files = scanned.train, scanned.test
    if test_files is None:
        order = torch.randperm(len(train_files), generator=torch.Generator().manual_seed(0)).tolist()
        test_count = int(len(order) * _TEST_SHARE)
        test_files = [train_files[i] for i in sorted(order[:test_count])]
        train_files = [train_files[i] for i in sorted(order[test_count:])]

    def open_part(labelled: Labelled, mode: str | None = None, shape: tuple[int, int] | None = None) -> Files:
        paths, labels = zip(*labelled, strict=True)
        return open_files(paths, labels, size, mode, shape, skip_broken)

    def read(files: Files) -> ImageSet:
        if workers is not None:
            channels = 1 if files.mode == "L" else 3
            return Streamed(files, torch.tensor(files.labels), scanned.classes, (channels, *files.shape), workers)
        pixels, labels = decoded(files, skip_broken)
        return Images(pixels, torch.tensor(labels), scanned.classes)

    train = open_part(train_files)
    if not test_files:
        raise InputError("no images for the test: add a folder `test`, or give ten images or more")
    test = open_part(test_files, train.mode, train.shape)
    validation = None if scanned.validation is None else open_part(scanned.validation, train.mode, train.shape)
    return Source(read(train), lambda: read(test), None if validation is None else read(validation))
