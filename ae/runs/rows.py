"""Validation of a logged row: keys are text, values are finite-sized numbers."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from ae.tracking.row_log import Row
from ae.utils.errors import InputError
from ae.utils.files import describe, is_number, plain_number
from ae.utils.validation import AtLeast0, checked

_RESERVED = ("step", "epoch", "_step", "_runtime", "_timestamp", "_wandb")


def checked_row(row: Mapping[str, Any], step: Any, epoch: Any) -> Row:
    """Return the row with `step` and `epoch` in Python's numbers; raises InputError that names an invalid key."""
    return {
        "step": checked(plain_number(step), AtLeast0[int], "step"),
        "epoch": checked(plain_number(epoch), AtLeast0[float], "epoch"),
        **{key: _checked_value(key, value) for key, value in row.items()},
    }


def _checked_value(key: Any, value: Any) -> int | float:
    if not isinstance(key, str) or not key or key in _RESERVED:
        raise InputError(f"{key!r} can't be logged as a key: it must be text, and none of {', '.join(_RESERVED)}")
    number = plain_number(value)
    if not isinstance(number, Real):
        raise InputError(f"{key} must be a number to be logged, got {describe(value)}")
    number = int(number) if isinstance(number, Integral) else float(number)
    if isinstance(number, int) and not is_number(number):
        raise InputError(f"{key} must be a number that a float can hold, got one of {number.bit_length()} bits")
    return number
