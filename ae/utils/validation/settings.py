"""Checks of the fields of dataclasses and of the arguments of functions by their type hints."""

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn

from ae.utils.errors import InputError
from ae.utils.validation.hints import checked

Function = TypeVar("Function", bound=Callable[..., Any])


class Settings:
    """Base of dataclasses of settings: check each field by its type, and convert it, at construction.

    Raises InputError that names class and field. A subclass's `__post_init__` calls this `__post_init__` first.
    """

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]  # classes are hashable
            object.__setattr__(self, name, checked(getattr(self, name), hint, f"{type(self).__name__}.{name}"))


def check_unread(settings: Settings, names: Iterable[str], why: str) -> None:
    """Raise InputError where a field in `names`, which nothing reads for the reason `why`, differs from its default."""
    kind = type(settings)
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise InputError(f"{kind.__name__}.{name} is not read {why}")


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, with its range."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def checked_arguments(function: Function) -> Function:
    """Check and convert a function's arguments before each call: numbers, choices, paths, and tuples of these.

    An argument annotated with a module class may be any `nn.Module`, since a wrapper replaces the module it wraps.
    Other classes of this package are checked by `isinstance`. Arguments of other types are not checked.
    Raises InputError that names the argument.
    """
    signature = inspect.signature(function)
    checkable = {p.name: _checkable(p.annotation) for p in signature.parameters.values()}
    hints = {name: hint for name, hint in checkable.items() if hint is not None}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises the TypeError of a plain call
        for name in hints.keys() & bound.arguments.keys():
            bound.arguments[name] = checked(bound.arguments[name], hints[name], name)
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def _checkable(hint: Any) -> Any:
    """Return the type that an argument is checked by; None: it is not checked."""
    if _is_plain(hint):
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        parts = [type(None) if part is type(None) else _checkable(part) for part in get_args(hint)]
        return None if None in parts else Union[tuple(parts)]  # noqa: UP007  # of a list
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return None
    if issubclass(hint, nn.Module):
        return nn.Module
    return hint if hint.__module__.startswith("ae.") else None


def _is_plain(hint: Any) -> bool:
    """Whether a type consists of numbers, text, paths and choices alone."""
    if hint in (int, float, bool, str, Path, None, type(None), Ellipsis) or get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType, tuple, Sequence):
        return all(_is_plain(part) for part in get_args(hint))
    return False
