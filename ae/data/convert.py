"""Conversion of the data that `fit` and `evaluate` take: arrays, tensors, and PyTorch data sets."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ae.data.arrays import from_arrays
from ae.data.batch import Batch
from ae.data.columns import Columns
from ae.data.decode import INFERRED
from ae.data.images import Images, ImageSet
from ae.data.options import Data
from ae.data.sources.hub import parts_of
from ae.data.splits import Splits
from ae.data.streamed import Items, Streamed
from ae.data.tables import read_tables
from ae.functional import LABEL
from ae.utils.errors import InputError

_ACCEPTED = "Images, Streamed, a map-style Dataset, images [n c h w], (images, labels), or (images, {name: targets})"


def as_splits(data: Any, caller: str = "fit") -> Splits:
    """Convert data to `Splits`: `Data` is loaded, and what `as_images` takes becomes the training images.

    `caller` is the function named in messages. Raises InputError for data that can't be converted.
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Data):
        return data.load()
    if _is_of_hugging_face(data, "DatasetDict"):
        return _splits_of(data)
    if isinstance(data, tuple | list) and len(data) in (2, 3) and all(_is_image_set(part) for part in data):
        raise InputError(f"{caller} takes several sets of images by name: Splits(train=..., validation=...)")
    return Splits(as_images(data, caller, f"Splits, Data, {_ACCEPTED}"))


def as_images(data: Any, caller: str = "evaluate", accepted: str = _ACCEPTED) -> ImageSet:
    """Convert data to an image set: arrays and tensors to `Images`, PyTorch data sets to `Streamed`.

    Images are [n c h w], [n h w] or, if only the last axis can be the channels, [n h w c]: integers in 0 to 255, or
    floats in [0, 1], which are not rounded. Labels, and targets beside them, are optional. Classes are those of the
    data set, else the numbers up to the highest label. Raises InputError that names `caller` and what it takes.
    """
    if isinstance(data, Images | Streamed):
        return data
    if isinstance(data, Splits | Data):
        raise InputError(f"{caller} takes one set of images, as splits.validation or splits.test(), not {_name(data)}")
    if isinstance(data, DataLoader):
        raise InputError(
            f"{caller} makes its batches itself, and takes no DataLoader: give its dataset, loader.dataset"
        )
    if isinstance(data, IterableDataset):
        raise InputError(
            f"{caller} takes no IterableDataset, which has no length and no order: give a map-style Dataset, "
            'or Data("hub", ROOT, stream=True), which reads shards in sequence'
        )
    if isinstance(data, Batch):
        return _from_arrays(data.images, data.labels, caller, _others(data.targets))
    if isinstance(data, Tensor | np.ndarray):
        return _from_arrays(data, None, caller)
    if isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]) and _is_labels(data[1]):
        return _from_arrays(data[0], data[1], caller)
    if isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]) and isinstance(data[1], Mapping):
        return _from_arrays(data[0], _labels(data[1]), caller, _others(data[1]))
    if isinstance(data, Mapping) and "images" in data and _is_array(data["images"]):
        others = {name: values for name, values in data.items() if name != "images"}
        return _from_arrays(data["images"], _labels(others), caller, _others(others))
    if isinstance(data, ImageSet):
        return data
    if _is_of_hugging_face(data, "Dataset"):
        return _tables({"train": data})["train"]
    if _is_of_hugging_face(data, "DatasetDict"):
        raise InputError(f"{caller} takes one set of images: give a part of the data, {' or '.join(data)}")
    if isinstance(data, Items) and not isinstance(data, str | bytes | Mapping):
        return Streamed.of(data)
    raise InputError(f"{caller} takes {accepted}, got {_name(data)}")


def _from_arrays(images: Any, labels: Any, caller: str, targets: Mapping[str, Any] | None = None) -> ImageSet:
    return from_arrays(images, labels, targets, name=f"images given to {caller}")


def _labels(targets: Mapping[str, Any]) -> Any:
    return targets.get("labels", targets.get(LABEL))


def _others(targets: Mapping[str, Any]) -> dict[str, Any]:
    """The targets beside the labels."""
    return {name: values for name, values in targets.items() if name not in (LABEL, "labels")}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim in (3, 4)


def _is_labels(value: Any) -> bool:
    """Whether a value can be labels: an array of at most two axes, a sequence of numbers, or None."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim <= 2
    return value is None or (
        isinstance(value, tuple | list) and all(isinstance(number, int | float) for number in value)
    )


def _is_image_set(value: Any) -> bool:
    return isinstance(value, ImageSet) or (isinstance(value, Items) and not _is_array(value) and not _is_labels(value))


def _is_of_hugging_face(value: Any, kind: str) -> bool:
    """Whether a value is of a class of `datasets`, without the import of `datasets`."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(value, getattr(module, kind))


def _splits_of(parts: Mapping[str, Any]) -> Splits:
    """Make splits of a `datasets.DatasetDict`; no image is held out."""
    sets = _tables(parts_of(parts, "the data"))
    test = sets.get("test")
    return Splits(sets["train"], sets.get("validation"), None if test is None else lambda: test)


def _tables(parts: Mapping[str, Any]) -> Mapping[str, Streamed]:
    return read_tables(parts, Columns().found(parts["train"].features, "the data"), INFERRED)


def _name(value: Any) -> str:
    return type(value).__name__
