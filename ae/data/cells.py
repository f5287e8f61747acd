"""Cells of Hugging Face data sets: images, encoded or as pixels, and columns as targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ae.data.decode import GivenForm, ImageForm, is_grey, opened_image
from ae.data.items import as_image
from ae.data.targets import Target
from ae.utils.errors import InputError, one_line

_LOOKED_AT = 1000  # images, evenly spaced, whose headers tell whether a data set has colours


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
