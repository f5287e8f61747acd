"""The folder of a run: what its files are called, and what is read from them, checked for its kind."""

import errno
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ae.evaluation.metrics import higher_is_better
from ae.runs.renamed import renamed_settings
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.files import (
    describe,
    exists,
    is_count,
    is_number,
    json_text,
    parse_json,
    plain_number,
    read_json,
    read_text,
)

CONFIG, HISTORY, STATE, SUMMARY = "config.json", "history.jsonl", "state.pt", "summary.json"
LOCK = ".lock"
Row = dict[str, int | float]

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` in a run's folder: experiment, id and config; raises InputError where it is no run.

    Beside these it may hold `version`, of ae, and if the run was written by 0.1, which gave none, its settings are
    renamed; `changes`, of the times that the run was continued; and `data`, the data's identity.
    """
    path = folder / CONFIG
    if not exists(path):
        raise InputError(f"no run in {folder}: it has no {CONFIG}")
    content = read_json(path)
    if not isinstance(content, dict) or not {"experiment", "id", "config"} <= content.keys():
        raise InputError(f"{path} is no run's: it must have experiment, id and config")
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
    """The rows logged so far in a run's folder, without values that were not finite, nor a row that a kill has cut off.

    Raises InputError that names file and line where there is no row with a step.
    """
    return [row for _, row in history_lines(folder)]


def history_lines(folder: Path) -> list[tuple[str, Row]]:
    """Each row of a run's history beside the line that it stands in."""
    path = folder / HISTORY
    if not exists(path):
        return []
    lines = read_text(path).split("\n")[:-1]  # what comes after the last end of a line has been cut off
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
    """The final numbers in a run's folder; None where it has not come so far. Raises InputError for what is none."""
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


def _expect(path: Path, name: str, value: Any, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise InputError(f"can't read {path}: {name} must be {wanted}, got {describe(value)}")


def is_running(folder: Path) -> bool:
    """Whether a process on this machine has the run in this folder open."""
    if not exists(folder / LOCK):
        return False
    try:
        _ask_for_locks(folder / LOCK)
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that can't be written to, or has no locks
        return False


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass or dict as what JSON can hold: dataclasses become dicts, tuples lists, functions and classes their
    names, and paths absolute ones, which mean the same from everywhere. Raises InputError for what is neither."""

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
    """Best value of each validation metric, as `best/val/...`."""
    best: Row = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("val/") and key.count("/") == 1:
                better = max if higher_is_better(key) else min
                best[f"best/{key}"] = better(best.get(f"best/{key}", value), value)
    return best


def json_bytes(content: dict[str, Any]) -> bytes:
    """The content of a JSON file for people, too."""
    return (json_text(content, indent=2) + "\n").encode()


class Lock:
    """A run's lock, held: for one process, and gone with it, however it ends.

    On a file system without locks nobody is kept out, which is said in a line. Raises InputError where it is held.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / LOCK)
        self.keeps_out = True
        try:
            _ask_for_locks(folder / LOCK)
            self._lock.acquire(timeout=1)  # seconds; somebody may be looking whether the run is open
        except Timeout as error:
            raise InputError(
                f"the run in {folder} is open already, in another process or unfinished in this one"
            ) from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise InputError(f"can't write in {folder}: {error.strerror}") from error
            self.keeps_out = False
            say(f"{folder} is on a file system without locks: see that no other process has the run open", error=True)

    def release(self) -> None:
        """Let others have the run."""
        self._lock.release()


def _ask_for_locks(path: Path) -> None:
    """Raise OSError where the file system of this file has no locks; filelock's substitute would outlive a kill."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_UN)


def make_folder(folder: Path) -> None:
    """Make a folder that holds nothing yet, or raise InputError."""
    if exists(folder / CONFIG):
        raise InputError(f"{folder} already holds a run: continue it with --run.resume {folder}, or choose another")
    if exists(folder) and not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"can't write in {folder}: {error.strerror}") from error
