"""Data sets of Hugging Face `datasets`: of the Hub, in a folder, in parquet or Arrow files, and WebDataset shards."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ae.data.columns import Rows, find_image_column, find_label_column, infer_form, read_target, undecoded
from ae.data.decode import INFERRED, GivenForm
from ae.data.files import note
from ae.data.images import ImageSet
from ae.data.items import image_of
from ae.data.sources.source import Source, with_test
from ae.data.streamed import Streamed
from ae.data.targets import Target
from ae.utils.errors import InputError, one_line

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
_PARTS |= {"test": "test"}
_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


def read_hub(
    root: Path,
    form: GivenForm = INFERRED,
    workers: int = 2,
    image_column: str | None = None,
    label_column: str | None = None,
    target_columns: tuple[str, ...] = (),
) -> Source[ImageSet]:
    """Open a data set whose images are read on demand from memory-mapped tables.

    root            ORG/NAME on the Hub, also ORG/NAME:CONFIG and ORG/NAME@REVISION; a folder of images, of parquet
                    files or of WebDataset shards (.tar), or one that `save_to_disk` wrote; or one such file
    form            size, channels and value of white of the images
    workers         processes that read ahead
    image_column    by default the only column of images
    label_column    by default the column label, labels, target, targets, class, y or cls, or the only one of classes
    target_columns  columns of targets (`ae.data.columns.read_target`); other columns are not read

    Without test images, a fixed tenth of the training images is held out. Raises InputError that names the columns
    where one is not clear, and where the extra `hub` is missing.
    """
    parts = _open(root)
    features = parts["train"].features
    image = find_image_column(features, image_column)
    label = find_label_column(features, label_column)
    unknown = [name for name in target_columns if name not in features]
    if unknown:
        raise InputError(f"no column {unknown[0]} for Data.target_columns, but {', '.join(features)}")
    unread = [name for name in features if name not in (image, label, *target_columns) and not name.startswith("__")]
    if unread:
        note(f"columns of {root} that are not read: {', '.join(unread)}; Data.target_columns takes targets")
    for name, part in parts.items():
        if list(part.features) != list(features):
            raise InputError(f"the {name} part of {root} has other columns than the training part")
    known = {name: read_target(list(parts.values()), name) for name in target_columns}
    labels = None if label is None else _labels(list(parts.values()), label)
    sets: dict[str, ImageSet] = {}
    images, first = _Images.of(parts["train"], image, form), 0
    for name, part in parts.items():
        index = slice(first, first + len(part))
        first += len(part)
        here = None if labels is None else labels[index]
        sets[name] = images.image_set(part, here, {key: target[index] for key, target in known.items()}, workers)
    return with_test(sets["train"], sets.get("validation"), sets.get("test"))


def image_set_of(data: Any, workers: int = 2) -> Streamed:
    """Make an image set of a `datasets.Dataset`; its columns are found as in `read_hub`."""
    column, label = find_image_column(data.features, None), find_label_column(data.features, None)
    labels = None if label is None else _labels([data], label)
    return _Images.of(data, column, INFERRED).image_set(data, labels, {}, workers)


def _labels(parts: Sequence[Any], column: str) -> Target:
    """Read the labels of all parts, with the names of their classes, or their numbers."""
    labels = read_target(parts, column)
    if labels.values.is_floating_point() or labels.values.ndim != 1:
        raise InputError(
            f"the column {column} can't be the labels, it holds no classes: name it in Data.target_columns"
        )
    return replace(labels, classes=labels.classes or tuple(str(i) for i in range(int(labels.values.max()) + 1)))


class _Images:
    """Column and form of the images of a data set's parts."""

    def __init__(self, column: str, form: Any, shape: tuple[int, int, int]) -> None:
        self.column, self.form, self.shape = column, form, shape

    @classmethod
    def of(cls, data: Any, column: str, given: GivenForm) -> "_Images":
        """Infer the form from the training images."""
        if not len(data):
            raise InputError("no images: the data set is empty")
        images, is_encoded = undecoded(data, column)
        if is_encoded:
            form = infer_form(images, column, given)
            return cls(column, form, form.tensor_shape)
        channels, height, width = image_of(Rows(images, column, None)[0], "row 0").shape
        return cls(column, None, (channels, height, width))

    def image_set(self, data: Any, labels: Target | None, targets: dict[str, Target], workers: int) -> Streamed:
        """Open the images of a part."""
        images, _ = undecoded(data, self.column)
        values = torch.full((len(data),), -1) if labels is None else labels.values
        classes = () if labels is None else labels.classes
        return Streamed(Rows(images, self.column, self.form), values, classes, self.shape, workers, targets)


def _open(root: Path) -> dict[str, Any]:
    """Open the parts of a data set: train, and validation and test if there are such."""
    try:
        import datasets
    except ImportError as error:
        raise InputError("data set hub needs the extra `hub`: pip install 'ae[hub]'") from error

    try:
        opened = _opened(datasets, root)
    except InputError:
        raise
    except Exception as error:  # of files, of Arrow, and of the network
        missing = "" if root.exists() else "no file or folder of this name, and on the Hub: "
        raise InputError(f"can't open {root}: {missing}{one_line(error)}") from error
    splits = {"train": opened} if isinstance(opened, datasets.Dataset) else {str(k): v for k, v in opened.items()}
    parts = {_PARTS[split]: data for split, data in splits.items() if split in _PARTS}
    others = [split for split in splits if split not in _PARTS]
    if "train" not in parts:
        raise InputError(f"{root} has no part train, but {', '.join(splits) or 'none'}")
    if others:
        note(f"parts of {root} that are not read: {', '.join(others)}")
    return parts


def _opened(datasets: Any, root: Path) -> Any:
    if root.is_file():
        builder = _BUILDERS.get(root.suffix.lower())
        if builder is None:
            kinds = ", ".join(_BUILDERS)
            raise InputError(f"{root} must be a file {kinds}, a folder of such files, or ORG/NAME on the Hub")
        return datasets.load_dataset(builder, data_files={"train": str(root)})
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        return datasets.load_from_disk(str(root))
    if root.is_dir():
        return datasets.load_dataset(str(root.absolute()))
    name = _NAME.fullmatch(root.as_posix())
    if name is None:
        raise InputError(f"no file or folder {root}, and no name on the Hub: Data.root of hub is ORG/NAME, for example")
    return datasets.load_dataset(name["name"], name["config"], revision=name["revision"])
