"""Columns of Hugging Face data sets: which hold the images, labels and targets, and their values.

No image is decoded for a label: columns are read from Arrow tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ae.data.decode import GivenForm, ImageForm, is_grey, opened_image
from ae.data.files import note
from ae.data.items import IMAGE_NAMES, LABEL_NAMES, as_image
from ae.data.targets import Target
from ae.utils.errors import InputError, one_line

_OF_SHARDS = ("__key__", "__url__")  # columns that tell where a row of a WebDataset was
_LOOKED_AT = 1000  # images, evenly spaced, whose headers tell whether a data set has colours


@dataclass(frozen=True)
class Columns:
    """Columns of images, labels and targets; None is found by `found`.

    image    by default the only column of images, or the one named as images are
    label    by default `label` or a name like it, or the only column of named classes; none if there is none
    targets  other columns to predict
    """

    image: str | None = None
    label: str | None = None
    targets: tuple[str, ...] = ()

    def found(self, features: Mapping[str, Any], place: str) -> "FoundColumns":
        """Find the columns among those of a data set, and note those that are not read.

        Raises InputError, which names the columns, where there is none of this name, or several can be meant.
        """
        for option, name in (("image_column", self.image), ("label_column", self.label)):
            if name is not None and name not in features:
                raise InputError(f"no column {name} for Data.{option}, but {', '.join(features)}")
        for name in self.targets:
            if name not in features:
                raise InputError(f"no column {name} for Data.target_columns, but {', '.join(features)}")
        image = self.image or _find_image_column(features)
        label = self.label or _find_label_column(features)
        unread = [name for name in features if name not in (image, label, *self.targets) and name not in _OF_SHARDS]
        if unread:
            note(f"columns of {place} that are not read: {', '.join(unread)}; Data.target_columns takes targets")
        return FoundColumns(image, label, self.targets)


@dataclass(frozen=True)
class FoundColumns:
    """Columns of images, labels and targets of a data set."""

    image: str
    label: str | None
    targets: tuple[str, ...]


def read_cell(cell: Any, form: ImageForm | None, name: str) -> Any:
    """Read an image: decode it, or, without a form, take its pixels."""
    if form is None:
        return as_image(np.asarray(cell), name)
    return form.read(encoded(cell, name), name)


def encoded(cell: Any, name: str) -> Any:
    """The content or path of an image's file, from a cell {bytes, path} or of bytes; InputError for an empty one."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else None)
    if cell is None:
        raise InputError(f"{name} has no image")
    return cell


def content_of(cell: Any, is_encoded: bool, name: str) -> bytes:
    """The bytes of an image, of its file or of its pixels."""
    if not is_encoded:
        return np.asarray(cell).tobytes()
    source = encoded(cell, name)
    return source if isinstance(source, bytes) else bytes(source.read_bytes())


def is_encoded(feature: Any) -> bool:
    """Whether a column holds encoded images: the files' contents, or {bytes, path}."""
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _find_image_column(features: Mapping[str, Any]) -> str:
    """The only column of images, or the only one with the name of images; `image` where there are several."""
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [name for name in features if name.lower() in IMAGE_NAMES]
    for candidates in (typed, named):
        if len(candidates) > 1 and IMAGE_NAMES[0] not in candidates:
            raise InputError(f"the columns {', '.join(candidates)} can be the images: choose with Data.image_column")
        if candidates:
            return IMAGE_NAMES[0] if IMAGE_NAMES[0] in candidates else candidates[0]
    raise InputError(f"none of the columns {', '.join(features)} is of images: name it with Data.image_column")


def _find_label_column(features: Mapping[str, Any]) -> str | None:
    """The column with the name of labels, or the only one of named classes."""
    import datasets

    named = [name for name in (*LABEL_NAMES, "cls") if name in features and _is_label(features[name])]
    if named:
        return named[0]
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(typed) > 1:
        raise InputError(f"the columns {', '.join(typed)} can be the labels: choose with Data.label_column")
    return typed[0] if typed else None


def _is_label(feature: Any) -> bool:
    import datasets

    is_value = isinstance(feature, datasets.Value) and not feature.dtype.startswith(("float", "double", "binary"))
    return isinstance(feature, datasets.ClassLabel) or is_value


def infer_form(images: Any, column: str, given: GivenForm) -> ImageForm:
    """Infer what is not given of the form of encoded images, from the headers of at most 1,000, evenly spaced.

    Images are grey if all of these are; a colour image among others is refused when it is read. Without a size, all
    must have that of the first.
    """
    from PIL import ImageOps

    if not len(images):
        raise InputError("no images: the data set is empty")
    shape, mode = given.shape, given.mode
    for i in np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int).tolist():
        if shape is not None and mode is not None:
            break
        name = f"row {i}"
        with opened_image(encoded(images[i][column], name), name) as file:
            if shape is None:
                turned = ImageOps.exif_transpose(file)
                shape = (turned.height, turned.width)
            if not is_grey(file):
                mode = mode or "RGB"
    assert shape is not None  # that of the first image
    return ImageForm(mode or "L", shape, given.shape is not None, given.white, refuses_colour=given.mode is None)


def read_target(parts: Sequence[Any], name: str) -> Target:
    """Read a column of several data sets, one after the other, as a target (`as_target`)."""
    import pyarrow as pa

    tables = [part.select_columns([name]).with_format("arrow")[:] for part in parts]
    column = pa.chunked_array([chunk for table in tables for chunk in table[name].chunks], tables[0][name].type)
    return as_target(column, parts[0].features[name], name)


def as_target(column: Any, feature: Any, name: str, classes: Sequence[str] | None = None) -> Target:
    """Convert a column of Arrow to a target, typed by what it holds.

    Named classes, text and booleans are classes (of text: `classes`, or all values, sorted); whole numbers are classes
    without names; floats, and lists of numbers of one length, are values. Missing cells are -1, or NaN. Raises
    InputError for other columns, and for text that is none of `classes`.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            known = sorted(pc.unique(column).drop_null().to_pylist()) if classes is None else classes
            numbers = pc.index_in(column, pa.array(known, kind))
            if numbers.null_count > column.null_count:
                raise InputError(f"the column {name} has values that are none of its {len(known)} classes")
            return Target(_integers(numbers), tuple(known))
        if pa.types.is_boolean(kind):
            return Target(_integers(column.cast(pa.int64())), ("False", "True"))
        if pa.types.is_integer(kind):
            names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
            return Target(_integers(column), names)
        if pa.types.is_floating(kind):
            return Target(torch.from_numpy(column.cast(pa.float32()).fill_null(float("nan")).to_numpy().copy()))
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            rows = np.stack(column.to_numpy(zero_copy_only=False))
            return Target(torch.from_numpy(rows.astype(np.float32 if rows.dtype.kind == "f" else np.int64)))
    except (ValueError, TypeError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the column {name} can't be a target: {one_line(error)}") from error
    raise InputError(f"the column {name} can't be a target: it holds {kind}, not numbers, text, or lists of numbers")


def _integers(column: Any) -> torch.Tensor:
    """Integers of a column; -1 where it has none."""
    return torch.from_numpy(column.fill_null(-1).to_numpy().copy()).long()
