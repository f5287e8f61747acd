"""Data sets of Hugging Face that are read in sequence: from the Hub, parquet files and tar shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ae.data.cells import as_target, content_of, infer_form, is_encoded, read_cell
from ae.data.columns import FoundColumns
from ae.data.decode import GivenForm, ImageForm
from ae.data.files import note
from ae.data.images import ImageSet
from ae.data.items import as_image
from ae.data.sequential import Row, Sequential, State
from ae.data.sources.source import Source
from ae.functional import LABEL
from ae.utils.errors import InputError, one_line

_DTYPES_OF_CLASSES = ("int", "uint", "string", "large_string")
_READ_TOGETHER = 64  # rows
_LOOKED_AT = 100  # images at the start, whose headers tell whether a stream has colours
_TEST_SHARE, _MOST_TEST_IMAGES = 10, 5000


@dataclass(frozen=True)
class Streaming:
    """How rows are read in sequence: rows that are shuffled together, and the number of images if it is not stated."""

    buffer: int = 4096
    images: int | None = None


@dataclass(frozen=True)
class HubShards:
    """Shards of a `datasets.IterableDataset`.

    columns  names of the columns by target; `label` is that of the labels
    classes  values of columns of text, and of columns of whole numbers
    """

    data: Any
    image: str
    form: ImageForm | None
    columns: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return int(self.data.num_shards)

    def rows(self, shard: int, state: State | None = None) -> Iterator[tuple[Row, Callable[[], State]]]:
        """Iterate over the rows of a shard after a state; errors of files and the network are InputErrors.

        A state is that of the library before some rows that are read together, and how many of these come before.
        """
        data = self.data.shard(len(self), shard)
        before, offset = (None, 0) if state is None else (state["before"], state["offset"])
        try:
            if before is None:
                before = deepcopy(data.state_dict())
            else:
                data.load_state_dict(before)
            for columns in data.iter(_READ_TOGETHER):
                cells = zip(*columns.values(), strict=True)
                for number, row in enumerate(islice(cells, offset, None), offset + 1):
                    yield dict(zip(columns, row, strict=True)), partial(dict, before=before, offset=number)
                before, offset = deepcopy(data.state_dict()), 0
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"shard {shard} of the stream can't be read: {one_line(error)}") from error

    def decode(self, rows: Sequence[Row], name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode images, and convert targets, of rows."""
        import pyarrow as pa

        images = [read_cell(row[self.image], self.form, name) for row in rows]
        if any(image.dtype != torch.uint8 for image in images):
            raise InputError("streamed images must be encoded, or arrays of uint8")
        targets = {}
        for target, column in self.columns.items():
            feature = self.data.features[column]
            cells = pa.array([row[column] for row in rows], feature.pa_type if hasattr(feature, "pa_type") else None)
            is_text = "string" in getattr(feature, "dtype", "")
            values = as_target(cells, feature, column, self.classes[column] if is_text else None).values
            targets[target] = values.float() if values.is_floating_point() else values.long()
        targets.setdefault(LABEL, torch.full((len(rows),), -1))
        pixels = torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)
        return pixels, targets

    def content(self, row: Row) -> bytes:
        """The bytes of a row's image, encoded or as an array."""
        return content_of(row[self.image], self.form is not None, "an image")

    def classes_of(self, target: str) -> tuple[str, ...]:
        """Names of the classes of a target; none of numbers that are no classes."""
        feature = self.data.features[self.columns[target]]
        if getattr(feature, "dtype", "") == "bool":
            return ("False", "True")
        return tuple(getattr(feature, "names", self.classes.get(self.columns[target], ())))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        if self.form is not None:
            return self.form.tensor_shape
        channels, height, width = as_image(next(iter(self.data))[self.image], "the first image").shape
        return channels, height, width


def read_in_sequence(
    parts: Mapping[str, Any], found: FoundColumns, given: GivenForm, workers: int, stream: Streaming
) -> Source[ImageSet]:
    """Open the parts of a data set, `datasets.IterableDataset` each; validation and test images are held in memory.

    Without test images, the first of the training images are held out: a tenth, at most 5,000. Their number, and the
    classes of columns of text and numbers, are those that the data set states; else it is read once for them.
    """
    import datasets

    train, image = parts["train"], found.image
    columns = {**({} if found.label is None else {LABEL: found.label}), **{name: name for name in found.targets}}
    if is_encoded(train.features[image]):
        parts = {name: part.cast_column(image, datasets.Image(decode=False)) for name, part in parts.items()}
        form: ImageForm | None = infer_form(list(parts["train"].take(_LOOKED_AT)), image, given)
    else:
        parts, form = {name: part.with_format("numpy") for name, part in parts.items()}, None
    counts, known = _survey(parts, columns, stream.images)
    sets: dict[str, Sequential] = {}
    for name, part in parts.items():
        shards = HubShards(part, image, form, columns, known)
        shape = sets["train"].shape if sets else shards.shape
        classes = shards.classes_of(LABEL) if LABEL in columns else ()
        sets[name] = Sequential(shards, counts[name], classes, shape, workers, stream.buffer)
    trained = sets["train"].with_first_targets() if found.targets else sets["train"]
    validation = sets["validation"].held() if "validation" in sets else None
    if "test" in sets:
        return Source(trained, sets["test"].held, validation)
    trained, held_out = trained.hold_out(min(len(trained) // _TEST_SHARE, _MOST_TEST_IMAGES))
    return Source(trained, lambda: held_out, validation)


def _survey(
    parts: Mapping[str, Any], columns: Mapping[str, str], count: int | None
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """The number of rows of each part, and the values of its columns of classes: as stated, or by reading it once."""
    import datasets

    features = parts["train"].features
    unknown = [name for name in columns.values() if not isinstance(features[name], datasets.ClassLabel)]
    unknown = [name for name in unknown if getattr(features[name], "dtype", "").startswith(_DTYPES_OF_CLASSES)]
    counts: dict[str, int] = {}
    values: dict[str, set[Any]] = {name: set() for name in unknown}
    for name, part in parts.items():
        splits = part.info.splits or {}
        stated = splits[name].num_examples if name in splits else None
        if name == "train" and count is not None:
            stated = count
        if stated and not unknown:
            counts[name] = stated
            continue
        note(f"the {name} part is read once for the number of its images{' and its classes' if unknown else ''}")
        read = 0
        for batch in part.select_columns([*columns.values()] or [next(iter(features))]).iter(_READ_TOGETHER):
            read += len(next(iter(batch.values())))
            for column in unknown:
                values[column].update(value for value in batch[column] if value is not None)
        counts[name] = stated or read
    return counts, {name: _classes(each) for name, each in values.items()}


def _classes(values: set[Any]) -> tuple[str, ...]:
    """The classes of a column: text, sorted, or the numbers up to the highest."""
    if all(isinstance(value, str) for value in values):
        return tuple(sorted(values))
    return tuple(str(i) for i in range(int(max(values)) + 1))
