"""The form in which sources give their data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ae.data.images import ImageSet

Kind = TypeVar("Kind", bound=ImageSet, covariant=True)


@dataclass(frozen=True)
class Source(Generic[Kind]):
    """Training images, a function that gives the test images, and validation images if the data set has any.

    Test images are checked when the source is opened.
    """

    train: Kind
    test: Callable[[], Kind]
    validation: Kind | None = None
