"""Sweep files, in the format of `wandb sweep`."""

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ae.sweeps.check import check_sweep
from ae.sweeps.space import Parameter, Sweep
from ae.utils.errors import InputError
from ae.utils.files import check_regular, read_text
from ae.utils.validation import AtLeast2, Positive, checked, nearest

_KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "run_cap", "early_terminate")
_PARAMETER_KEYS = ("value", "values", "min", "max", "distribution", "q")
_MAX_BYTES = 1_000_000
_MAX_INTEGER = 2**53  # samplers draw integers as float64


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file; raises InputError that names the file and the wrong entry."""
    text = _read(path)
    try:
        from ae.utils.yaml import load_yaml

        sweep = _parse(load_yaml(text), path.stem)
        check_sweep(sweep)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sweep


def _read(path: Path) -> str:
    check_regular(path)
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: not a sweep file: it has more than {_MAX_BYTES:,} bytes")
    return read_text(path).removeprefix("\ufeff")


def _parse(content: Any, default_name: str) -> Sweep:
    if not isinstance(content, dict):
        raise InputError("not a sweep file: it must have program, method, metric and parameters")
    _check_keys(content, _KEYS, "")
    method, metric = content.get("method"), _section(content, "metric", {"name", "goal"})
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"method must be grid, random or bayes, got {method!s:.60}")
    if not str(metric.get("name", "")).startswith("val/") or metric.get("goal") not in ("minimize", "maximize"):
        raise InputError("metric needs a name that begins with val/, and a goal, minimize or maximize")
    pruning = _section(content, "early_terminate", {"type", "min_iter", "eta"})
    if pruning and pruning.get("type") != "hyperband":
        raise InputError(f"early_terminate's type must be hyperband, got {pruning.get('type')!s:.60}")
    return Sweep(
        name=_name(content.get("name", default_name)),
        module=_module(content),
        method=method,
        parameters=_parameters(content.get("parameters")),
        metric=metric["name"],
        maximize=metric["goal"] == "maximize",
        runs=checked(content.get("run_cap"), Positive[int] | None, "run_cap"),
        min_iter=checked(pruning.get("min_iter", 1), Positive[int], "early_terminate's min_iter") if pruning else None,
        eta=checked(pruning.get("eta", 3), AtLeast2[int], "early_terminate's eta"),
    )


def _check_keys(content: dict[Any, Any], known: Collection[str], of: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"unknown key {key!s:.60}{of}{nearest(str(key), known)}")


def _section(content: dict[Any, Any], key: str, known: Collection[str]) -> dict[str, Any]:
    """Return a nested section with known keys; empty where it is missing."""
    section = content.get(key) or {}
    if not isinstance(section, dict):
        raise InputError(f"{key} must have {', '.join(sorted(known))}, got {section!r:.60}")
    _check_keys(section, known, f" of {key}")
    return section


def _name(value: Any) -> str:
    """Return the study's name, which is the name of its folder and of its group in W&B."""
    name = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not 0 < len(name) <= 128 or name in (".", "..") or "/" in name or not name.isprintable():
        raise InputError(f"name must be the name of a folder, of at most 128 characters, got {value!r:.60}")
    return name


def _module(content: dict[str, Any]) -> str:
    """Return the experiment's module, from `-m MODULE` in the command or from the program's path."""
    command, program = content.get("command") or [], content.get("program")
    if not isinstance(command, list):
        raise InputError(f"command must be a list of words, got {command!r:.60}")
    if "-m" in command[:-1]:
        module = command[command.index("-m") + 1]
    elif isinstance(program, str) and program:
        module = ".".join(Path(program).with_suffix("").parts) if Path(program).name else ""
    else:
        raise InputError("program is missing, as in experiments/joint.py")
    if not isinstance(module, str) or not all(name.isidentifier() for name in module.split(".")):
        raise InputError(
            f"program must be a module's file below this folder, as in experiments/joint.py, got {module!s:.60}"
        )
    return module


def _parameters(content: Any) -> dict[str, Parameter]:
    if not content:
        raise InputError("the search space is empty: parameters is missing")
    parameters: dict[str, Parameter] = {}
    for key, spec in _flatten(content):
        name = key.replace("-", "_")
        if name in parameters:
            raise InputError(f"parameter {name} is there twice")
        try:
            parameters[name] = _parameter(spec)
        except InputError as error:
            raise InputError(f"parameter {name:.60} {error}") from error
    return parameters


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each parameter's dotted name and specification."""
    if not isinstance(content, dict):
        raise InputError(f"{prefix.rstrip('.') or 'parameters'} must have parameters by name, got {content!r:.60}")
    for key, spec in content.items():
        name = f"{prefix}{key}"
        if not isinstance(spec, dict):
            raise InputError(f"parameter {name:.60} must have value, values, or min and max")
        if "parameters" in spec:
            _check_keys(spec, ["parameters"], f" of parameter {name:.60}")
            yield from _flatten(spec["parameters"], f"{name}.")
        else:
            yield name, spec


def _parameter(spec: dict[str, Any]) -> Parameter:
    if unknown := [key for key in spec if key not in _PARAMETER_KEYS]:
        raise InputError(f"has the unknown key {unknown[0]!s:.60}{nearest(str(unknown[0]), _PARAMETER_KEYS)}")
    if len({"value", "values", "min"} & spec.keys()) != 1 or ("min" in spec) != ("max" in spec):
        raise InputError("must have value, values, or min and max")
    return _range(spec) if "min" in spec else _choice(spec)


def _choice(spec: dict[str, Any]) -> Parameter:
    values = [spec["value"]] if "value" in spec else spec["values"]
    distribution = "constant" if "value" in spec else "categorical"
    if spec.get("distribution", distribution) != distribution or "q" in spec:
        raise InputError("must have min and max where it has q, or a distribution of numbers")
    if not isinstance(values, list):
        raise InputError(f"needs a list of values, got {values!r:.60}")
    if not values:
        raise InputError("has no values to choose from")
    texts = [_json(value) for value in values]
    if len(set(texts)) < len(texts):
        raise InputError(f"has the value {next(text for text in texts if texts.count(text) > 1):.60} twice")
    return Parameter(tuple(values))


def _range(spec: dict[str, Any]) -> Parameter:
    low, high = (_number(spec[key], key) for key in ("min", "max"))
    if low > high:
        raise InputError(f"has no values to choose from: min {low} is above max {high}")
    if low == high:
        raise InputError(f"has no values to choose from: min equals max; write value: {low}")
    if not math.isfinite(float(high) - float(low)):
        raise InputError(f"has a range that is too large: from {low} to {high}")
    are_integers = isinstance(low, int) and isinstance(high, int)
    distribution = spec.get("distribution", "int_uniform" if are_integers else "uniform")
    if "q" in spec and distribution != "q_uniform":
        raise InputError("has q, which needs the distribution q_uniform")
    match distribution:
        case "uniform":
            return Parameter(low=low, high=high)
        case "int_uniform":
            if int(low) != low or int(high) != high:
                raise InputError(f"needs whole numbers for int_uniform, got {low} and {high}")
            return Parameter(low=int(low), high=int(high), is_integer=True)
        case "log_uniform_values":
            if low <= 0:
                raise InputError(f"needs a positive min for log_uniform_values, got {low}")
            return Parameter(low=low, high=high, log=True, is_integer=are_integers)
        case "q_uniform":
            q = _number(spec.get("q", 1), "q")
            if not 0 < q <= high - low:
                raise InputError(f"needs a q above 0 and up to max - min, got {q}")
            return Parameter(low=low, high=high, step=q, is_integer=are_integers and isinstance(q, int))
    allowed = "uniform, int_uniform, log_uniform_values or q_uniform"
    raise InputError(f"distribution must be {allowed}, got {distribution!s:.60}")


def _number(value: Any, name: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InputError(f"needs a finite number for {name}, got {value!r:.60}")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise InputError(
            f"needs a {name} of at most 2^53, got {value:.3e}" if abs(value) < 1e300 else f"has a huge {name}"
        )
    return value


def _json(value: Any) -> str:
    """Encode a flag's value as JSON; raises InputError for dates, NaN, null characters and other non-JSON values."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"has a value that no flag can have: {value!r:.60}") from error
    if "\\u0000" in text:
        raise InputError(f"has a value with a null character: {text:.60}")
    return text
