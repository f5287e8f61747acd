"""The form in which sources give their data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from ae.data.images import ImageSet
from ae.utils.errors import InputError

NO_TEST_IMAGES = "no images for the test: add test images, or give ten images or more"
_TEST_SHARE = 0.1  # of the training images, held out where there are no test images

Kind = TypeVar("Kind", bound=ImageSet, covariant=True)


@dataclass(frozen=True)
class Source(Generic[Kind]):
    """Training images, a function that gives the test images, and validation images if the data set has any.

    Test images are checked when the source is opened.
    """

    train: Kind
    test: Callable[[], Kind]
    validation: Kind | None = None


def with_test(train: ImageSet, validation: ImageSet | None, test: ImageSet | None) -> Source[ImageSet]:
    """Make a source of the parts of a data set; without test images, a fixed tenth of the training images is held out.

    Raises InputError where there are too few images to hold out.
    """
    if test is not None:
        return Source(train, lambda: test, validation)
    train_index, test_index = held_out_for_test(len(train))
    if not len(test_index):
        raise InputError(NO_TEST_IMAGES)
    held_out = train.select(test_index)
    return Source(train.select(train_index), lambda: held_out, validation)


def held_out_for_test(count: int) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " k"]]:
    """Indices of training and test images, in order, of a data set without test images: a fixed tenth is held out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    test_count = int(count * _TEST_SHARE)
    return order[test_count:].sort().values, order[:test_count].sort().values
