"""Columns of Hugging Face data sets: which hold the images, labels and targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ae.data.files import note
from ae.data.items import IMAGE_NAMES, LABEL_NAMES
from ae.utils.errors import InputError

_OF_SHARDS = ("__key__", "__url__")  # columns that tell where a row of a WebDataset was


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
