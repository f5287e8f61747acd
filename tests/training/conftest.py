"""Fixtures of the tests of training."""

import pytest

from ae import Splits


@pytest.fixture
def few(digits: Splits) -> Splits:
    """32 real digits to train on, 16 to validate on."""
    return Splits(digits.train.select(slice(32)), digits.train.select(slice(32, 48)))
