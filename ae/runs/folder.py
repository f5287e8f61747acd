"""Files of a run's folder: their names, and readers that check the type of every value."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ae.evaluation.metrics import higher_is_better
from ae.runs.renamed import renamed_settings
from ae.tracking.row_log import Row
from ae.utils.errors import InputError, one_line
from ae.utils.files import describe, exists, is_count, is_number, parse_json, plain_number, read_json, read_text

CONFIG, HISTORY, STATE, SUMMARY = "config.json", "history.jsonl", "state.pt", "summary.json"


@dataclass
class ConfigFile:
    """Content of `config.json`."""

    experiment: str
    id: str
    config: dict[str, Any]
    changes: list[dict[str, Any]] = field(default_factory=list)  # of the configuration, at each resume
    data: dict[str, Any] | None = None  # identity of the training data

    def to_dict(self) -> dict[str, Any]:
        """Return the content as `read_config` reads it, with the present version of ae."""
        content: dict[str, Any] = {"version": version("ae"), "experiment": self.experiment, "id": self.id}
        content["config"] = self.config
        if self.changes:
            content["changes"] = self.changes
        if self.data is not None:
            content["data"] = self.data
        return content


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` in a run's folder: experiment, id and config; raises InputError if the folder holds no run.

    Optional entries are `version` of ae, `changes` of the configuration at each resume, and `data`, the data's
    identity. Version 0.1 wrote no `version`; its settings are returned under their present names.
    """
    path = folder / CONFIG
    if not exists(path):
        raise InputError(f"no run in {folder}: it has no {CONFIG}")
    content = read_json(path)
    if not isinstance(content, dict) or not {"experiment", "id", "config"} <= content.keys():
        raise InputError(f"can't read {path}: it must have experiment, id and config")
    for name in ("experiment", "id"):
        _expect(path, name, content[name], isinstance(content[name], str) and content[name] != "", "text")
    is_id = content["id"].isprintable() and not set(content["id"]) & set("/\\#?%:")
    _expect(path, "id", content["id"], is_id, "text without / \\ # ? % :")
    _expect(path, "config", content["config"], isinstance(content["config"], dict), "an object")
    changes = content.get("changes", [])
    are_changes = isinstance(changes, list) and all(isinstance(change, dict) for change in changes)
    _expect(path, "changes", changes, are_changes, "a list of objects")
    _expect(path, "data", content.get("data"), isinstance(content.get("data", {}), dict), "an object")
    return content if "version" in content else {**content, "config": renamed_settings(content["config"])}


def read_history(folder: Path) -> list[Row]:
    """Read the logged rows, without non-finite values and without a last row that a kill has truncated.

    Raises InputError that names file and line if a line is not a row with a step.
    """
    return [row for _, row in history_lines(folder)]


def history_lines(folder: Path) -> list[tuple[str, Row]]:
    """Read each line of a run's history, with its row."""
    path = folder / HISTORY
    if not exists(path):
        return []
    lines = read_text(path).split("\n")[:-1]  # text after the last newline is truncated
    return [(line, _row(line, path, number)) for number, line in enumerate(lines, 1)]


def _row(line: str, path: Path, number: int) -> Row:
    row = parse_json(line, f"{path}, line {number}")
    place = f"line {number}"
    _expect(path, place, row, isinstance(row, dict) and "step" in row, "a row with a step")
    _expect(path, f"{place}: step", row["step"], is_count(row["step"]), "a whole number from 0")
    for key, value in row.items():
        _expect(path, f"{place}: {key}", value, value is None or is_number(value), "a number")
    return {key: value for key, value in row.items() if value is not None}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of a run; None if the run has not reached it. Raises InputError for invalid content."""
    path = folder / SUMMARY
    if not exists(path):
        return None
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise InputError(f"can't read {path}: it must be an object, got {describe(summary)}")
    if "step" in summary:
        _expect(path, "step", summary["step"], is_count(summary["step"]), "a whole number from 0")
    if "epoch" in summary:
        _expect(path, "epoch", summary["epoch"], is_number(summary["epoch"]), "a number")
    return summary


def _expect(path: Path, name: str, value: Any, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise InputError(f"can't read {path}: {name} must be {expected}, got {describe(value)}")


def to_json(config: Any) -> dict[str, Any]:
    """Convert a dataclass or dict to JSON values; raises InputError for values that JSON can't hold.

    Dataclasses become dicts, tuples lists, functions and classes their names, and paths absolute.
    """

    def simplify(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, Path):
            return str(value.absolute())
        if callable(getattr(value, "tolist", None)):  # of NumPy or PyTorch
            number = plain_number(value)
            return value.tolist() if number is value else number
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)

    values = {} if config is None else simplify(config) if is_dataclass(config) else config
    if not isinstance(values, Mapping):
        raise InputError(f"config must be a dataclass or a dict, got {describe(config)}")
    try:
        text = json.dumps(dict(values), default=simplify)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"config can't be kept in {CONFIG}: {one_line(error)}") from error
    return parse_json(text, "config")


def best_of(history: list[Row]) -> Row:
    """Return the best value of each validation metric, as `best/val/...`."""
    best: Row = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("val/") and key.count("/") == 1:
                better = max if higher_is_better(key) else min
                best[f"best/{key}"] = better(best.get(f"best/{key}", value), value)
    return best
