"""The folder of a run: what its files are called, and what is read from them."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ae.errors import InputError
from ae.metrics import higher_is_better

CONFIG, HISTORY, STATE, SUMMARY = "config.json", "history.jsonl", "state.pt", "summary.json"
LOCK = ".lock"
Row = dict[str, int | float]


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` in a run's folder holds: experiment, id and config; raises InputError where it is no run."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no run in {folder}: it has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}") from error
    has_all = isinstance(content, dict) and {"experiment", "id", "config"} <= content.keys()
    if not has_all or not isinstance(content["config"], dict):
        raise InputError(f"{path} is no run's: it must have experiment, id and config")
    return content


def read_history(folder: Path) -> list[Row]:
    """The rows logged so far in a run's folder, but for one that a kill has cut off."""
    path = folder / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if not all(isinstance(row, dict) and "step" in row for row in rows):
        raise ValueError("not every line is a row with a step")
    return rows


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The final numbers in a run's folder; None where it has not come so far. Raises ValueError for what is none."""
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(summary, dict):
        raise ValueError("it must be an object")
    return summary


def is_running(folder: Path) -> bool:
    """Whether a process on this machine has the run in this folder open."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that can't be written to
        return False


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass or dict as what JSON can hold: dataclasses become dicts, paths strings, tuples lists, functions and
    classes their names."""

    def simplify(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)

    values = simplify(config) if is_dataclass(config) else dict(config or {})
    return json.loads(json.dumps(values, default=simplify))


def best_of(history: list[Row]) -> Row:
    """What each metric of the validations was at its best, as `best/val/...`."""
    best: Row = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("val/") and key.count("/") == 1:
                better = max if higher_is_better(key) else min
                best[f"best/{key}"] = better(best.get(f"best/{key}", value), value)
    return best


def json_bytes(content: dict[str, Any]) -> bytes:
    """The content of a JSON file for people, too."""
    return (json.dumps(content, indent=2) + "\n").encode()


def lock_run(folder: Path) -> FileLock:
    """The run's lock, held: for one process, and gone with it, however it ends. Raises InputError where it is held."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=1)  # seconds; somebody may be looking whether the run is open
    except Timeout as error:
        raise InputError(
            f"the run in {folder} is open already, in another process or unfinished in this one"
        ) from error
    except OSError as error:
        raise InputError(f"can't write in {folder}: {error.strerror}") from error
    return lock


def make_folder(folder: Path) -> None:
    """Make a folder that holds nothing yet, or raise InputError."""
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} already holds a run: continue it with --run.resume {folder}, or choose another")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"can't write in {folder}: {error.strerror}") from error
