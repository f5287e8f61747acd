"""From dataclasses to a command line: the one module that imports tyro."""

import ast
import contextlib
import difflib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from ae.distributed import launched
from ae.errors import DivergedError, InputError, StorageError
from ae.run_folder import read_config
from ae.signals import is_urgent

__all__ = ["Positional", "cli", "flags", "parse", "parse_part", "to_args"]
Config = TypeVar("Config")
_FORKED = ("project", "entity", "group", "tags")  # what a fork has of where the other run is kept


def cli(main: Callable[[Config], None]) -> None:
    """Run `main`, which takes one dataclass, with the configuration that the command line gives.

    Bad input ends with one line and exit code 2, a diverged training or a full disk with one line and exit code 1,
    Ctrl-C with one line and exit code 130; with SIGTERM a shell shows 143.
    """
    (config_type,) = [hint for name, hint in get_type_hints(main).items() if name != "return"]
    description = inspect.getdoc(inspect.getmodule(main)) or ""
    try:
        with launched():
            main(parse(config_type, sys.argv[1:], description))
    except InputError as error:
        _stop(str(error), 2)
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
        before = to_args(config_type, read_config(Path(resumed))["config"])
    elif (forked := _value_of("--run.fork", args)) is not None:
        config = read_config(Path(forked))["config"]
        run = {key: value for key, value in config.get("run", {}).items() if key in _FORKED}
        before = to_args(config_type, {**config, "run": run})
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config, unknown = tyro.cli(
                config_type,
                args=[*before, *args],
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as stop:
        if stop.code:
            raise InputError(_one_line(complaint.getvalue())) from None
        raise
    if unknown:
        raise InputError(_unknown(unknown[0], list(flags(config_type))))
    return config


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


def flags(config_type: type, prefix: str = "--") -> dict[str, Any]:
    """Every flag with its type; None for what the command line can't give, a function, as a corruption is."""
    hints = get_type_hints(config_type)
    found: dict[str, Any] = {}
    for field in fields(config_type):
        flag, hint = prefix + field.name.replace("_", "-"), hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            found |= flags(hint, f"{flag}.")
        else:
            is_function = any(get_origin(part) is Callable for part in (hint, *get_args(hint)))
            found[flag] = None if is_function else hint
    return found


def _as_we_write(arg: str, config_type: type) -> list[str]:
    """An argument in the form of W&B's agents as flags of ours; any other as it is."""
    name, _, text = arg.partition("=")
    hint = flags(config_type).get(name.replace("_", "-"))
    kinds = hint, *get_args(hint)
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


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of `--flag value` or `--flag=value`, the last one."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(f"{flag}=") else [arg])]
    values = [value for word, value in pairwise(words) if word == flag and value != "None"]
    return values[-1] if values else None


def _unknown(arg: str, flags: list[str]) -> str:
    near = difflib.get_close_matches(arg.split("=")[0], flags, n=1, cutoff=0.5)
    return f"unknown option {arg}" + (f"; the nearest is {near[0]}" if near else "; --help lists all options")


def _one_line(complaint: str) -> str:
    """What tyro's panel says before its first ruler, on one line, with the nearest of the choices that it names."""
    text = complaint.split("────")
    body = next((part for part in text if "│" in part), complaint)
    line = " ".join(re.sub(r"[│╭╮╰╯─]", " ", body).split())
    wrong, *choices = re.findall(r"'([^']*)'", re.sub(r"for argument '\S*'", "", line)) or [""]
    near = difflib.get_close_matches(wrong, choices, n=1, cutoff=0)
    return line + (f" The nearest is {near[0]}." if near else "")


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    if is_urgent():
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End the process without what is done at its end, such as waiting for W&B."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
