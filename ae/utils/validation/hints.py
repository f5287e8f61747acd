"""Checks of values by type hints: `Positive[int]`, `Literal["sgd", "adamw"]`, `Path | None`.

NumPy scalars are converted to Python numbers, text to a path (with `~` expanded), and a list to a tuple.
"""

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from torch import Tensor, nn

from ae.utils.errors import InputError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Range:
    """Interval of numbers from `low` to `high`; each end is closed or open."""

    low: float = -math.inf
    high: float = math.inf
    is_low_open: bool = False
    is_high_open: bool = False

    def __contains__(self, value: int | float) -> bool:
        above = value > self.low if self.is_low_open else value >= self.low
        below = value < self.high if self.is_high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return "positive" if self.low == 0 and self.is_low_open else f"{self.low:g} or more"
        low = f"more than {self.low:g}" if self.is_low_open else f"from {self.low:g}"
        return f"{low} to {'less than ' if self.is_high_open else ''}{self.high:g}"


Positive = Annotated[Number, Range(0.0, is_low_open=True)]
AtLeast0 = Annotated[Number, Range(0.0)]
AtLeast1 = Annotated[Number, Range(1.0)]
AtLeast2 = Annotated[Number, Range(2.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
BelowOne = Annotated[float, Range(0.0, 1.0, is_high_open=True)]


def checked(value: Any, hint: Any, name: str) -> Any:
    """Return `value` converted to the type `hint`; raises InputError that begins with `name` where it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if arguments[0] in (int, float) and not _is_number(value, arguments[0]):
            raise _wrong(value, hint, name)
        value = checked(value, arguments[0], name)
        for limit in arguments[1:]:
            if isinstance(limit, Range) and value not in limit:
                raise InputError(f"{name} must be {limit}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _checked_union(value, arguments, hint, name)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            raise _wrong(value, hint, name, nearest(str(value), map(str, arguments)))
        return value
    if origin in (tuple, list, Sequence):
        return _checked_sequence(value, arguments, hint, name)
    if origin is Mapping and arguments[1] is not Any:
        return _checked_mapping(value, arguments, hint, name)
    if hint is Path:
        return _checked_path(value, hint, name)
    if hint is bool and isinstance(value, bool | np.bool_):
        return bool(value)
    if hint is int and _is_number(value, int):
        return int(value)
    if hint is float and _is_number(value, float):
        if not math.isfinite(value):
            raise InputError(f"{name} must be finite, got {float(value)}")
        return float(value)
    if hint is str and isinstance(value, str):
        return str(value)
    if hint in (int, float, bool, str):
        raise _wrong(value, hint, name)
    kind = Callable if origin is Callable else origin or hint
    if (kind is Callable and not callable(value)) or (isinstance(kind, type) and not isinstance(value, kind)):
        raise _wrong(value, hint, name)
    return value


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool | np.bool_)


def _checked_union(value: Any, kinds: Sequence[Any], hint: Any, name: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    if len(kinds) == 1:
        return checked(value, kinds[0], name)
    for kind in kinds:
        try:
            return checked(value, kind, name)
        except InputError:
            if get_origin(kind) is Annotated and _is_number(value, get_args(kind)[0]):
                raise  # number of the right type, outside of its range
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    raise _wrong(value, hint, name, nearest(str(value), choices))


def _checked_sequence(value: Any, arguments: Sequence[Any], hint: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(value, hint, name)
    is_variadic = get_origin(hint) is not tuple or arguments[-1] is Ellipsis
    if not is_variadic and len(value) != len(arguments):
        raise _wrong(value, hint, name)
    if is_variadic:
        return tuple(checked(each, arguments[0], name) for each in value)
    return tuple(checked(value[i], kind, f"{name}[{i}]") for i, kind in enumerate(arguments))


def _checked_mapping(value: Any, arguments: Sequence[Any], hint: Any, name: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(value, hint, name)
    return {
        checked(key, arguments[0], f"a name of {name}"): checked(each, arguments[1], f"{name}[{key!r:.40}]")
        for key, each in value.items()
    }


def _checked_path(value: Any, hint: Any, name: str) -> Path:
    if not isinstance(value, str | PathLike) or isinstance(value, bytes):
        raise _wrong(value, hint, name)
    text = str(value)
    if not text or "\0" in text:
        raise InputError(f"{name} must be a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of a user that does not exist
        raise InputError(f"{name} must be a path, got {text!r}: {error}") from error


def _wrong(value: Any, hint: Any, name: str, near: str = "") -> InputError:
    text = repr(value)
    return InputError(f"{name} must be {describe(hint)}, got {text if len(text) <= 100 else text[:100] + '...'}{near}")


def describe(hint: Any) -> str:
    """Describe the values of a type in words, for a message."""
    origin, arguments = get_origin(hint), get_args(hint)
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}
    if hint in plain:
        return plain[hint]
    if hint is nn.Module:
        return "a torch.nn.Module"
    if origin is Annotated:
        limit, number = next((limit for limit in arguments[1:] if isinstance(limit, Range)), ""), describe(arguments[0])
        return number.replace("a ", "a positive ", 1) if str(limit) == "positive" else f"{number} {limit}".strip()
    if origin is Literal:
        return _either([str(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        literals = [str(choice) for part in arguments if get_origin(part) is Literal for choice in get_args(part)]
        return _either(literals + [describe(part) for part in arguments if get_origin(part) is not Literal])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"{len(arguments)} values ({'; '.join(describe(part) for part in arguments)})"
    if origin in (tuple, list, Sequence):
        return f"a sequence, each {describe(arguments[0])}"
    if origin is Mapping and arguments[0] is str and arguments[1] is not Any:
        return f"names with a value each, {describe(arguments[1])}"
    if origin is Callable:
        return "a function"
    return "None" if hint in (None, type(None)) else getattr(hint, "__name__", str(hint))


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return the end of a message with the known name closest to `name`; empty where none is close."""
    by_lower_case = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return f"; the nearest is {by_lower_case[near[0]]}" if near else ""
