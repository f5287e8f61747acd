"""Data sets that are arrays in a file: images, with labels and targets beside them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ae.data.arrays import Array, from_arrays, read_on_demand
from ae.data.images import ImageSet
from ae.data.items import IMAGE_NAMES, LABEL_NAMES
from ae.data.sources.array_files import open_arrays, split_name
from ae.data.sources.source import Source, with_test
from ae.utils.errors import InputError

_CLASSES = ("classes", "class_names")


def read_arrays(path: Path, workers: int | None = None) -> Source[ImageSet]:
    """Read a data set from .npz, .npy, .safetensors or .h5, or from a folder of .npy files.

    The arrays are

    - `images` (or image, img, pixels, x ...): [n h w], [n c h w] or [n h w c], integers 0 to 255 or floats in [0, 1]
    - `labels` (or label, y ...): [n] or [n 1] whole numbers, -1 where unlabelled
    - `classes`: names of the classes
    - every other array [n ...] is a target, integers or floats

    The first or last word of a name gives its part, as in `train_images`, `x_test` or `val/labels`; names without such
    a word belong to the training images. Without test images, a fixed tenth of the training images is held out. An
    .npy file alone holds unlabelled images.

    workers  read the images on demand with this many processes, instead of holding them in memory
    """
    tables: dict[str, dict[str, Array]] = defaultdict(dict)
    names: Any = None
    arrays = open_arrays(path)
    for name, array in arrays.items():
        if name in _CLASSES:
            names = _class_names(array, f"{name} of {path}")
            continue
        part, rest = split_name(name)
        if rest in tables[part]:
            raise InputError(f"{path} has more than one array {rest} of {part} images")
        tables[part][rest] = array
    if workers is not None and path.suffix.lower() == ".npz":
        raise InputError(f"{path} can't be read on demand, since it is a zip archive: store .npy, .safetensors or .h5")
    if "train" not in tables:
        raise InputError(f"{path} has no training images: it has arrays {', '.join(arrays) or 'none'}")
    sets = {part: _image_set(table, f"{path}, {part}", workers, names) for part, table in tables.items()}
    if names is None:
        sets = _same_classes(sets)
    return with_test(sets["train"], sets.get("validation"), sets.get("test"))


def _image_set(table: Mapping[str, Array], place: str, workers: int | None, classes: Any) -> ImageSet:
    name = _known_name(table, IMAGE_NAMES, place)
    if name is None:
        expected = f"expected one of {', '.join(IMAGE_NAMES)}"
        raise InputError(f"{place}: no array of images, but {', '.join(table)}; {expected}")
    label_name = _known_name(table, LABEL_NAMES, place)
    labels = None if label_name is None else np.array(table[label_name])
    images = table[name]
    targets = {key: np.array(array) for key, array in table.items() if key not in (name, label_name)}
    try:
        if workers is not None:
            return read_on_demand(images, workers, labels, targets, classes)
        return from_arrays(np.array(images), labels, targets, classes)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _known_name(table: Mapping[str, Array], known: tuple[str, ...], place: str) -> str | None:
    names = [name for name in table if name.lower() in known]
    if len(names) > 1:
        raise InputError(f"{place}: more than one of the arrays can be meant, {' and '.join(names)}: rename one")
    return names[0] if names else None


def _class_names(array: Array, place: str) -> tuple[str, ...]:
    values = np.array(array)
    if values.ndim != 1 or values.dtype.kind not in "USO":
        raise InputError(f"{place} must be names, text [classes], got {values.dtype} {list(values.shape)}")
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)


def _same_classes(sets: dict[str, ImageSet]) -> dict[str, ImageSet]:
    """Give all parts the classes of the part that has most: their names are numbers."""
    classes = max((images.classes for images in sets.values()), key=len)
    return {part: replace(images, classes=classes) for part, images in sets.items()}  # type: ignore[type-var]
