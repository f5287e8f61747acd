"""Tables of Hugging Face `datasets`, mapped into memory, as image sets whose images are read on demand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ae.data.cells import content_of, infer_form, is_encoded, read_cell, read_target
from ae.data.columns import FoundColumns
from ae.data.decode import GivenForm, ImageForm
from ae.data.images import Images, ImageSet
from ae.data.items import image_of
from ae.data.streamed import Streamed
from ae.data.targets import Target
from ae.utils.errors import InputError

_DECODED_TOGETHER = 256


@dataclass(frozen=True)
class Rows:
    """Images of a data set of Hugging Face: item i is the image of row i, decoded on access.

    rows    the data set, with its column of images alone, undecoded
    form    form of encoded images; None for arrays of pixels
    """

    rows: Any
    column: str
    form: ImageForm | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return read_cell(self.rows[index][self.column], self.form, f"row {index}")

    def content(self, index: int) -> bytes:
        """The bytes of an image, encoded or as an array."""
        return content_of(self.rows[index][self.column], self.form is not None, f"row {index}")


def read_tables(
    parts: Mapping[str, Any], columns: FoundColumns, form: GivenForm, workers: int = 2
) -> dict[str, Streamed]:
    """Make an image set of each part, `datasets.Dataset` by name; the form is inferred from those of `train`.

    Labels and targets of all parts have the same classes. Raises InputError for parts of different columns.
    """
    train, every = parts["train"], list(parts.values())
    for name, part in parts.items():
        if list(part.features) != list(train.features):
            raise InputError(f"the {name} part has other columns than the training part")
    labels = None if columns.label is None else _labels(every, columns.label)
    targets = {name: read_target(every, name) for name in columns.targets}
    images, are_encoded = undecoded(train, columns.image)
    inferred = infer_form(images, columns.image, form) if are_encoded else None
    if inferred is not None:
        shape = inferred.tensor_shape
    else:
        channels, height, width = image_of(Rows(images, columns.image, None)[0], "row 0").shape
        shape = (channels, height, width)
    sets, first = {}, 0
    for name, part in parts.items():
        index = slice(first, first + len(part))
        first += len(part)
        rows = Rows(undecoded(part, columns.image)[0], columns.image, inferred)
        label = Target(torch.full((len(part),), -1)) if labels is None else labels[index]
        others = {key: target[index] for key, target in targets.items()}
        sets[name] = Streamed(rows, label.values, label.classes, shape, workers, others)
    return sets


def in_memory(images: ImageSet) -> Images:
    """Decode all images once, and hold them in memory; processes of the data set decode.

    Raises InputError for images of floats that 8 bits can't hold.
    """
    pixels = []
    for batch in images.in_order(_DECODED_TOGETHER):
        grey = (batch.images * 255).round()
        if not torch.equal(grey / 255, batch.images):
            raise InputError("images of floats can't be held in memory as 8 bits: leave out Data.hold")
        pixels.append(grey.to(torch.uint8))
    return Images(torch.cat(pixels), images.labels, images.classes, images.targets)


def undecoded(data: Any, column: str) -> tuple[Any, bool]:
    """Select the column of images of a data set; return it, and whether its images are encoded (else arrays)."""
    import datasets

    data = data.select_columns([column])
    if is_encoded(data.features[column]):
        return data.cast_column(column, datasets.Image(decode=False)).with_format(None), True
    return data.with_format("numpy"), False


def _labels(parts: Sequence[Any], column: str) -> Target:
    """Read the labels of all parts, with the names of their classes, or their numbers."""
    labels = read_target(parts, column)
    if labels.values.is_floating_point() or labels.values.ndim != 1:
        hint = "it holds no classes: name it in Data.target_columns"
        raise InputError(f"the column {column} can't be the labels, {hint}")
    return replace(labels, classes=labels.classes or tuple(str(i) for i in range(int(labels.values.max()) + 1)))
