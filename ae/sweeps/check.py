"""Checks of a sweep against its experiment: the flags exist, and the command lines of trials can be parsed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import Any

from ae.cli import flags, parse
from ae.sweeps.space import Sweep, nested
from ae.utils.errors import InputError, one_line
from ae.utils.validation import checked, field_types, nearest

_SET_BY_STUDY = ("run.dir", "run.resume", "run.fork")
_MAX_GRID = 10_000  # points
_SMALL_GRID = 8  # points; every point of a grid up to this size is checked


def check_sweep(sweep: Sweep) -> None:
    """Raise InputError for unknown flags, values that a flag refuses, and grids of ranges or of too many points."""
    _check_flags(sweep)
    if sweep.method == "grid":
        _check_grid(sweep)
    config: Any = None
    for point in _examples(sweep):
        with suppress(InputError):  # the command line may parse a value that the field's type refuses
            if config is not None:
                _replace(config, nested(point))
                continue
        try:
            config = parse(sweep.config_type(), sweep.arguments(point))
        except SystemExit as stop:  # --help in a value
            raise InputError(f"a trial with {point!r:.100} would not run") from stop


def _check_flags(sweep: Sweep) -> None:
    try:
        hints = flags(sweep.config_type())
    except (Exception, SystemExit) as error:  # importing a user's module may raise anything
        raise InputError(f"no experiment {sweep.module:.60}: {one_line(error)}") from error
    known = [flag.removeprefix("--").replace("-", "_") for flag, hint in hints.items() if hint is not None]
    for name in sweep.parameters:
        if name not in known or name in _SET_BY_STUDY:
            hint = "; the study itself sets it" if name in _SET_BY_STUDY else nearest(name, known)
            raise InputError(f"unknown parameter {name:.60}{hint}")


def _check_grid(sweep: Sweep) -> None:
    for name, parameter in sweep.parameters.items():
        if not parameter.values:
            raise InputError(f"a grid needs value or values for {name}, not min and max")
    if sweep.grid_size > _MAX_GRID:
        size = f"{sweep.grid_size:,}" if sweep.grid_size < 1e15 else f"{float(min(sweep.grid_size, 10**300)):.1e}"
        raise InputError(f"a grid of {size} points: at most {_MAX_GRID:,} are allowed; use method random")


def _examples(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Yield points to check: all of a small grid, else each parameter's examples with the first of all others."""
    if sweep.method == "grid" and sweep.grid_size <= _SMALL_GRID:
        yield from sweep.grid()
        return
    values = {name: parameter.examples() for name, parameter in sweep.parameters.items()}
    first = {name: examples[0] for name, examples in values.items()}
    yield first
    for name, examples in values.items():
        for value in examples[1:]:
            yield first | {name: value}


def _replace(config: Any, values: dict[str, Any]) -> Any:
    """Replace fields of a nested config, each checked by its type; much faster than parsing a command line."""
    kind: Any = type(config)
    hints, changes = field_types(kind), {}
    for name, value in values.items():
        field = getattr(config, name)
        is_group = is_dataclass(field) and isinstance(value, dict)
        changes[name] = _replace(field, value) if is_group else checked(value, hints[name], name)
    return replace(config, **changes)
