"""Flags of a dataclass, and its values as arguments of a command line."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional


def flags(config_type: type, prefix: str = "--", include_extras: bool = False) -> dict[str, Any]:
    """Return each flag with its type, which is None for a function; `include_extras` keeps the ranges of numbers."""
    hints = get_type_hints(config_type, include_extras=include_extras)
    types: dict[str, Any] = {}
    for field in fields(config_type):
        flag, hint = prefix + _dashed(field.name), hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            types |= flags(hint, f"{flag}.", include_extras)
        else:
            is_function = any(get_origin(part) is Callable for part in (hint, *get_args(hint)))
            types[flag] = choices_beside_function(hint) if is_function else hint
    return types


def flags_by_field(config_type: type, prefix: str = "--") -> dict[str, list[str]]:
    """Return the flags of each `Class.field`; there are several if the class is used more than once."""
    hints = get_type_hints(config_type)
    by_field: dict[str, list[str]] = {}
    for field in fields(config_type):
        flag, hint = prefix + _dashed(field.name), hints[field.name]
        by_field.setdefault(f"{config_type.__name__}.{field.name}", []).append(flag)
        if isinstance(hint, type) and is_dataclass(hint):
            for name, nested in flags_by_field(hint, f"{flag}.").items():
                by_field.setdefault(name, []).extend(nested)
    return by_field


def choices_beside_function(hint: Any) -> Any:
    """Return the Literal of a type `Literal[...] | Callable[...]`; None for any other type."""
    parts = get_args(hint)
    if not any(get_origin(part) is Callable for part in parts):
        return None
    return next((part for part in parts if get_origin(part) is Literal), None)


def positional(config_type: type) -> list[str]:
    """Return the names of the positional fields."""
    (marker,) = get_args(Positional[int])[1:]
    hints = get_type_hints(config_type, include_extras=True)
    return [name for name, hint in hints.items() if marker in getattr(hint, "__metadata__", ())]


def to_args(config_type: type, config: dict[str, Any]) -> list[str]:
    """Return the arguments that parse to a configuration, given as the values of its `config.json`."""
    hints = flags(config_type)
    functions = {flag for flag, hint in hints.items() if hint is None}
    args = []
    for flag, value in _flatten(config, hints):
        match value:
            case _ if flag in functions:
                continue
            case True:
                args.append(flag)
            case False:
                group, _, name = flag.rpartition(".")
                args.append(f"{group}.no-{name}" if group else f"--no-{name.removeprefix('--')}")
            case list():
                args += [flag, *map(str, value)]
            case dict():
                args += [flag, *(str(part) for item in value.items() for part in item)]
            case _:
                args.append(f"{flag}={value}")
    return args


def _flatten(config: dict[str, Any], leaves: Collection[str], prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Yield each flag with its value; a mapping whose name is a flag in `leaves` is a value."""
    for name, value in config.items():
        flag = prefix + _dashed(name)
        if isinstance(value, dict) and flag not in leaves:
            yield from _flatten(value, leaves, f"{flag}.")
        else:
            yield flag, value


def flag_of(arg: str) -> str:
    """Return the flag of an argument `--flag` or `--flag=value`, with dashes."""
    return _dashed(arg.split("=")[0])


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """Return the last value of `--flag value` or `--flag=value`; None if it is not set."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(f"{flag}=") else [arg])]
    values = [value for word, value in pairwise(words) if word == flag and value != "None"]
    return values[-1] if values else None


def words_of(flag: str, args: Sequence[str]) -> list[str] | None:
    """Return the words after the last occurrence of a flag, up to the next flag; None if the flag is absent."""
    names = [flag_of(arg) for arg in args]
    if flag not in names:
        return None
    index = len(args) - 1 - names[::-1].index(flag)
    if "=" in args[index]:
        return [args[index].partition("=")[2]]
    rest = args[index + 1 :]
    return list(rest[: next((i for i, arg in enumerate(rest) if arg.startswith("--")), len(rest))])


def _dashed(name: str) -> str:
    return name.replace("_", "-")
