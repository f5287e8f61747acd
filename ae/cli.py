"""From dataclasses to a command line: the one module that imports tyro."""

import ast
import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from ae.runs.folder import read_config
from ae.utils.console import say, steady
from ae.utils.errors import DivergedError, InputError, StorageError, one_line
from ae.utils.launch import launched
from ae.utils.signals import ending, is_urgent
from ae.utils.validation import checked, describe, nearest

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

__all__ = ["Positional", "cli", "flags", "parse", "parse_part", "to_args"]
Config = TypeVar("Config")
_FORKED = ("project", "entity", "group", "tags")  # what a fork has of where the other run is kept


def cli(main: Callable[[Config], None]) -> None:
    """Run `main`, which takes one dataclass, with the configuration that the command line gives.

    Bad input ends with one line and exit code 2, a diverged training or a full disk with one line and exit code 1,
    Ctrl-C with one line and exit code 130; SIGTERM, SIGHUP and SIGUSR1 with one line and 143, 129 and 138. What can't
    be printed, on a full disk or in a closed pipe, changes none of that.
    """
    steady()
    (config_type,) = [hint for name, hint in get_type_hints(main).items() if name != "return"]
    description = inspect.getdoc(inspect.getmodule(main)) or ""
    try:
        with ending, launched():
            main(parse(config_type, sys.argv[1:], description))
    except InputError as error:
        _stop(_with_flags(str(error), config_type, sys.argv[1:]), 2)
    except (DivergedError, StorageError) as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except SystemExit as stop:
        if is_urgent() and isinstance(stop.code, int):
            _leave(stop.code)
        raise


def parse(config_type: type[Config], args: Sequence[str], description: str = "") -> Config:
    """The configuration that `args` say; `--run.resume RUN` and `--run.fork RUN` begin with that of that run.

    Values may also be written as W&B's agents do: `--recipe.nesterov=True`, `--model.channels=[32, 64]`, and
    `--model={'latent': 16}` for several at once.
    """
    import tyro

    args = [word for arg in args for word in _as_we_write(arg, config_type)]
    before: list[str] = []
    if (resumed := _value_of("--run.resume", args)) is not None:
        before = to_args(config_type, _config_of("--run.resume", resumed, lambda name: name != "fork"))
    elif (forked := _value_of("--run.fork", args)) is not None:
        before = to_args(config_type, _config_of("--run.fork", forked, lambda name: name in _FORKED))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config, unknown = tyro.cli(
                config_type,
                args=[*before, *args],
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.SuppressFixed,),
                registry=_registry(),
            )
    except SystemExit as stop:
        if stop.code:
            line = _with_flags(_one_line(complaint.getvalue(), config_type, [*before, *args]), config_type, args)
            raise InputError(line if not before or _is_given(line, args) else _of_another(args, line)) from None
        raise
    if unknown and unknown[0] in before:
        raise InputError(_of_another(args, f"unknown option {unknown[0]}"))
    if unknown:
        raise InputError(_unknown(unknown[0], list(flags(config_type))))
    return config


def _config_of(name: str, folder: str, keeps: Callable[[str], bool]) -> dict[str, Any]:
    """The configuration of the run in a folder; of where it is kept, the fields that `keeps` says."""
    config: dict[str, Any] = read_config(checked(folder, Path, name))["config"]
    where = config.get("run")
    if isinstance(where, dict):
        config = {**config, "run": {name: value for name, value in where.items() if keeps(name)}}
    return config


def _is_given(complaint: str, args: Sequence[str]) -> bool:
    """Whether an option that a complaint names is one of the command line."""
    given = [arg.split("=")[0].replace("_", "-") for arg in args]
    return any(flag in given for flag in re.findall(r"--[\w.-]*\w", complaint))


def _of_another(args: Sequence[str], complaint: str) -> str:
    """The message that a run's configuration is not this experiment's."""
    folder = _value_of("--run.resume", args) or _value_of("--run.fork", args)
    name = read_config(Path(str(folder)))["experiment"]
    return f"the configuration of {folder}, a run of {name}, does not fit this experiment: {complaint}"


def _registry() -> "ConstructorRegistry":
    """Rules for tyro: numbers and paths as `ae.utils.validation` reads them; the choices of a choice or a function."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def number_or_path(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
        kind: Any = info.type
        if kind not in _READ:
            return None

        def read(words: list[str]) -> Any:
            try:
                return checked(_READ[kind](words[0]), kind, "")
            except ValueError as error:
                raise ValueError(f"must be {describe(kind)}, got {words[0]!r}") from error

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def choice_or_function(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
        choices = get_args(_choices_beside_function(info.type))
        if not choices:
            return None

        def chosen(words: list[str]) -> str:
            if words[0] not in choices:
                raise ValueError(f"invalid choice '{words[0]}', expected one of {choices}")
            return words[0]

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{{','.join(choices)}}}",
            instance_from_str=chosen,
            is_instance=lambda value: value in choices or callable(value),
            str_from_instance=lambda value: [str(value)],
            choices=choices,
        )

    return registry


_READ: dict[Any, Callable[[str], Any]] = {int: int, float: float, Path: str}


def _choices_beside_function(hint: Any) -> Any:
    """The Literal of a field that takes one of its choices, or a function from Python; None for any other field."""
    parts = get_args(hint)
    if not any(get_origin(part) is Callable for part in parts):
        return None
    return next((part for part in parts if get_origin(part) is Literal), None)


def parse_part(config_type: type[Config], config: dict[str, Any]) -> Config:
    """A dataclass of what a `config.json`, or a part of one, holds."""
    return parse(config_type, to_args(config_type, config))


def to_args(config_type: type, config: dict[str, Any]) -> list[str]:
    """The command line that gives a configuration, as `config.json` holds it."""
    fixed = {flag for flag, hint in flags(config_type).items() if hint is None}
    args = []
    for flag, value in _flatten(config):
        match value:
            case _ if flag in fixed:
                continue
            case True:
                args.append(flag)
            case False:
                group, _, name = flag.rpartition(".")
                args.append(f"{group}.no-{name}" if group else f"--no-{name.removeprefix('--')}")
            case list():
                args += [flag, *map(str, value)]
            case _:
                args.append(f"{flag}={value}")
    return args


def _flatten(config: dict[str, Any], prefix: str = "--") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            yield from _flatten(value, f"{flag}.")
        else:
            yield flag, value


def flags(config_type: type, prefix: str = "--", include_extras: bool = False) -> dict[str, Any]:
    """Every flag with its type, with ranges if asked; None for what the command line can't give, a function."""
    hints = get_type_hints(config_type, include_extras=include_extras)
    found: dict[str, Any] = {}
    for field in fields(config_type):
        flag, hint = prefix + field.name.replace("_", "-"), hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            found |= flags(hint, f"{flag}.", include_extras)
        else:
            is_function = any(get_origin(part) is Callable for part in (hint, *get_args(hint)))
            found[flag] = _choices_beside_function(hint) if is_function else hint
    return found


def _with_flags(message: str, config_type: type, args: Sequence[str]) -> str:
    """The message with the flag in the place of each field that it names, as `--recipe.lr` for `Recipe.lr`."""
    named = _flags_by_field(config_type)

    def flag(match: re.Match[str]) -> str:
        found = named.get(match[0], [match[0]])
        given = [each for each in found if any(arg.split("=")[0].replace("_", "-") == each for arg in args)]
        return " or ".join(given or found)

    return re.sub(r"\b[A-Z]\w*\.[a-z]\w*", flag, message)


def _flags_by_field(config_type: type, prefix: str = "--") -> dict[str, list[str]]:
    """The flags that set each field, which is named as `Class.field`; several where a class is used more than once."""
    hints = get_type_hints(config_type)
    found: dict[str, list[str]] = {}
    for field in fields(config_type):
        flag, hint = prefix + field.name.replace("_", "-"), hints[field.name]
        found.setdefault(f"{config_type.__name__}.{field.name}", []).append(flag)
        if isinstance(hint, type) and is_dataclass(hint):
            for name, below in _flags_by_field(hint, f"{flag}.").items():
                found.setdefault(name, []).extend(below)
    return found


def _as_we_write(arg: str, config_type: type) -> list[str]:
    """An argument in the form of W&B's agents as flags of ours; any other as it is."""
    name, has_value, text = arg.partition("=")
    hint = flags(config_type).get(name.replace("_", "-"))
    kinds = hint, *get_args(hint)
    if name.removeprefix("--") in _positional(config_type) and arg.startswith("--"):
        raise InputError(f"{name} is given by its place, without a name: {name.removeprefix('--').upper()}")
    if hint is bool and has_value and text not in ("True", "False"):
        raise InputError(f"{name} must be True or False, got {text!r}; without a value it is True")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [arg]
    match value:
        case dict() if name.startswith("--"):
            nested: Any = value
        case list() | tuple() if any(get_origin(kind) is tuple for kind in kinds):
            nested = list(value)
        case bool() if bool in kinds:
            nested = value
        case _:
            return [arg]
    for part in reversed(name.removeprefix("--").split(".")):
        nested = {part: nested}
    return to_args(config_type, nested)


def _positional(config_type: type) -> list[str]:
    """The fields that the command line gives by their place."""
    (marker,) = get_args(Positional[int])[1:]
    hints = get_type_hints(config_type, include_extras=True)
    return [name for name, hint in hints.items() if marker in getattr(hint, "__metadata__", ())]


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of `--flag value` or `--flag=value`, the last one."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(f"{flag}=") else [arg])]
    values = [value for word, value in pairwise(words) if word == flag and value != "None"]
    return values[-1] if values else None


def _unknown(arg: str, flags: list[str]) -> str:
    return f"unknown option {arg}{nearest(arg.split('=')[0], flags) or '; --help lists all options'}"


def _one_line(complaint: str, config_type: type, args: Sequence[str]) -> str:
    """A line for what tyro's panel complains about: in `ae.utils.validation`'s words where a flag has a wrong value."""
    line = _first_section(complaint)
    of_group = re.match(r"Error parsing (?!-)\S+: (.*)", line)  # raised where a group of settings was made
    if of_group:
        return of_group[1]
    hints = flags(config_type, include_extras=True)
    flag = next((word for word in re.findall(r"--[\w.-]*\w", line) if word in hints), None)
    given = None if flag is None else _words_of(flag, args)
    if flag is None or given is None:
        return re.sub(r"^Missing from \S+:", "missing:", line.removeprefix("Error parsing "))
    choices = [str(choice) for part in (hints[flag], *get_args(hints[flag])) for choice in _choices(part)]
    near = nearest(given[-1], choices, cutoff=0.0) if given else ""
    return f"{flag} must be {describe(hints[flag])}, got {' '.join(given)!r}{near}"


def _first_section(panel: str) -> str:
    """Return the text of tyro's panel between its title and its first ruler, with a frame or, in ASCII, without."""
    sections = re.split(r"[─-]{10,}", re.sub(r"╭─.*", "", panel))
    texts = [one_line(re.sub(r"[│╭╮╰╯─]", " ", section)) for section in sections]
    texts = [text for text in texts if text] or [""]
    return texts[1] if "╭" not in panel and len(texts) > 1 else texts[0]


def _choices(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _words_of(flag: str, args: Sequence[str]) -> list[str] | None:
    """The words that a command line has behind a flag, where it is given last; None where it is not given."""
    names = [arg.split("=")[0].replace("_", "-") for arg in args]
    if flag not in names:
        return None
    place = len(args) - 1 - names[::-1].index(flag)
    if "=" in args[place]:
        return [args[place].partition("=")[2]]
    rest = args[place + 1 :]
    return list(rest[: next((i for i, arg in enumerate(rest) if arg.startswith("--")), len(rest))])


def _stop(message: str, code: int) -> NoReturn:
    say(f"error: {message}", error=True)
    if is_urgent():
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End the process without what is done at its end, such as waiting for W&B."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
