"""Validation of what users give: fields of dataclasses, arguments of functions, tensors of images.

The type of a field or an argument says what it takes: `Positive[int]`, `Literal["sgd", "adamw"]`, `Path | None`.
Values of NumPy count as Python's, text counts as a path (with `~` expanded), a list as a tuple.
"""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, wraps
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from ae.utils.errors import InputError

Number = TypeVar("Number", int, float)
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, without an end that is open."""

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


class Settings:
    """Base of dataclasses of settings: each field is checked by its type, and converted to it, where it is made.

    Raises InputError that names class and field. A subclass with a `__post_init__` of its own calls this one first.
    """

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]  # classes are hashable
            object.__setattr__(self, name, checked(getattr(self, name), hint, f"{type(self).__name__}.{name}"))


def check_unread(settings: Settings, names: Iterable[str], why: str) -> None:
    """Raise InputError where one of the fields differs from its default, though nothing reads it, for `why`."""
    kind = type(settings)
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise InputError(f"{kind.__name__}.{name} is not read {why}")


@cache
def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with its range."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def checked_arguments(function: Function) -> Function:
    """Check a function's arguments, and convert them, before each call: numbers, choices, paths, and tuples of these.

    Of a module any `nn.Module` will do, since wrappers take the place of what they wrap; other classes of this package
    are checked as they are. Arguments of other types are left alone. Raises InputError that names the argument.
    """
    signature = inspect.signature(function)
    checkable = {p.name: _checkable(p.annotation) for p in signature.parameters.values()}
    hints = {name: hint for name, hint in checkable.items() if hint is not None}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says what is wrong with the call
        for name in hints.keys() & bound.arguments.keys():
            bound.arguments[name] = checked(bound.arguments[name], hints[name], name)
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def _checkable(hint: Any) -> Any:
    """The type that an argument is checked by; None where it is not checked."""
    if _is_plain(hint):
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        parts = [type(None) if part is type(None) else _checkable(part) for part in get_args(hint)]
        return None if None in parts else Union[tuple(parts)]  # noqa: UP007  # made of a list
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return None
    if issubclass(hint, nn.Module):
        return nn.Module
    return hint if hint.__module__.startswith("ae.") else None


def _is_plain(hint: Any) -> bool:
    """Whether a type is made of numbers, text, paths and choices alone."""
    if hint in (int, float, bool, str, Path, None, type(None), Ellipsis) or get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType, tuple, Sequence):
        return all(_is_plain(part) for part in get_args(hint))
    return False


def checked(value: Any, hint: Any, name: str) -> Any:
    """The value as an instance of the type `hint`; raises InputError that begins with `name` where it is none."""
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
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _wrong(value, hint, name, nearest(str(value), map(str, arguments)))
        return value
    if origin in (tuple, list, Sequence):
        return _checked_sequence(value, arguments, hint, name)
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
                raise  # a number of the right type, out of its range
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    raise _wrong(value, hint, name, nearest(str(value), choices))


def _checked_sequence(value: Any, arguments: Sequence[Any], hint: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(value, hint, name)
    is_long = get_origin(hint) is not tuple or arguments[-1] is Ellipsis
    if not is_long and len(value) != len(arguments):
        raise _wrong(value, hint, name)
    if is_long:
        return tuple(checked(each, arguments[0], name) for each in value)
    return tuple(checked(value[i], kind, f"{name}[{i}]") for i, kind in enumerate(arguments))


def _checked_path(value: Any, hint: Any, name: str) -> Path:
    if not isinstance(value, str | PathLike) or isinstance(value, bytes):
        raise _wrong(value, hint, name)
    text = str(value)
    if not text or "\0" in text:
        raise InputError(f"{name} must be a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of a user that there is not
        raise InputError(f"{name} must be a path, got {text!r}: {error}") from error


def _wrong(value: Any, hint: Any, name: str, near: str = "") -> InputError:
    text = repr(value)
    return InputError(f"{name} must be {describe(hint)}, got {text if len(text) <= 100 else text[:100] + '...'}{near}")


def describe(hint: Any) -> str:
    """Describe the values of a type in words."""
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
    if origin is Callable:
        return "a function"
    return "None" if hint in (None, type(None)) else getattr(hint, "__name__", str(hint))


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The end of a message, with the known name that is most like this one; empty where none is."""
    by_small_letters = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_small_letters, n=1, cutoff=cutoff)
    return f"; the nearest is {by_small_letters[near[0]]}" if near else ""


_check_range = True


@contextmanager
def unchecked_range() -> Iterator[None]:
    """Inside, the range of images and labels is not checked: where it is known to be right, or meant to be exceeded.

    Reading a range back makes a CUDA device wait; `fit` and `evaluate`, which scale the images themselves, use this.
    """
    global _check_range
    before, _check_range = _check_range, False
    try:
        yield
    finally:
        _check_range = before


def _of_kind(images: Any) -> str:
    """The name of a type that is no tensor, with the way to make one of it."""
    return type(images).__name__ + (": torch.from_numpy makes one" if isinstance(images, np.ndarray) else "")


def checks_range() -> bool:
    """Whether the range of values is to be checked: not inside `unchecked_range`, and not where a graph is compiled."""
    return _check_range and not torch.compiler.is_compiling()


def check_images(images: Tensor, channels: int, dtype: torch.dtype) -> None:
    """Raise InputError unless `images` is [b `channels` h w] of `dtype` with values in [0, 1]."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch tensor [b {channels} h w], got {_of_kind(images)}")
    shape = list(images.shape)
    if images.ndim != 4 or images.shape[1] != channels or 0 in shape[2:]:
        raise InputError(f"images must be [b {channels} h w], got {shape}")
    if images.dtype != dtype:
        cure = ": divide them by 255.0" if images.dtype == torch.uint8 else ""
        raise InputError(f"images must be {dtype} in [0, 1], got {images.dtype}{cure}")
    if checks_range() and images.numel():
        low, high = images.detach().aminmax()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise InputError(
                f"images must lie in [0, 1], got {low:.4g} to {high:.4g}: the encoder normalises them itself"
            )


def check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `x` is [b *shape]."""
    if tuple(x.shape[1:]) != shape:
        raise InputError(f"{name} must be [b {' '.join(map(str, shape))}], got {list(x.shape)}")
