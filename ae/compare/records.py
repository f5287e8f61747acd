"""Runs as they are found, in folders and in W&B."""

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ae.errors import InputError, one_line
from ae.run_folder import Row, best_of, is_running, read_config, read_history, read_summary
from ae.tracking_server import find_runs, read_file, read_rows

State = Literal["finished", "running", "stopped"]


@dataclass(frozen=True)
class Record:
    """A run: what it was asked to do, what it has measured, and how far it has come.

    config   every field by its dotted name, as in `model.latent`, and `experiment`
    metrics  the summary's numbers; of a run without a summary, the last validation's and the best ones
    picture  its reconstructions of test images as a PNG; of a run that has not been tested, of validation images
    """

    name: str
    where: str  # its folder, or its address in W&B
    state: State
    config: dict[str, Any]
    metrics: dict[str, int | float]
    history: list[Row] = field(default_factory=list)
    picture: bytes | None = None

    @property
    def step(self) -> int:
        """The last step that it logged; 0 if none."""
        return int(max((row["step"] for row in self.history if "step" in row), default=0))


def read_runs(sources: Sequence[str]) -> list[Record]:
    """The runs in folders, in folders of folders, under globs, or in W&B: `wandb:entity/project[/group]`.

    In the order given, each once. A run whose summary or history is broken is read without it, and that is said in a
    line. Raises InputError where a source holds no run.
    """
    records: dict[str, Record] = {}
    for source in sources:
        if source.startswith("wandb:"):
            found = [_from_server(run) for run in find_runs(source.removeprefix("wandb:"))]
        else:
            found = [read_run(folder) for folder in _find_folders(source)]
        records |= {record.where: record for record in found}
    return list(records.values())


def _find_folders(source: str) -> list[Path]:
    """The runs' folders that a path or a glob leads to; raises InputError where there is none."""
    paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(source)))]
    folders = [folder for path in paths for folder in _folders_in(path)]
    if not folders:
        missing = "" if paths else ", which does not exist"
        raise InputError(f"no run in {source}{missing}: give a run's folder, one that holds such folders, or a glob")
    return list(dict.fromkeys(folders))


def _folders_in(path: Path) -> Iterator[Path]:
    """The run's folder, or those below it."""
    for place, below, files in os.walk(path):
        if "config.json" in files:
            below.clear()
            yield Path(place)
        below.sort()


def read_run(folder: Path) -> Record:
    """The run in a folder; raises InputError where there is none."""
    content = read_config(folder)
    history = _unless_broken(lambda: read_history(folder), folder / "history.jsonl") or []
    summary = _unless_broken(lambda: read_summary(folder), folder / "summary.json")
    last = max((row["step"] for row in history), default=0)
    is_current = summary is not None and summary.get("step", last) >= last  # else it was resumed, and has gone on
    state: State = "running" if is_running(folder) else "finished" if is_current else "stopped"
    return Record(
        name=folder.resolve().name,
        where=str(folder.resolve()),
        state=state,
        config={"experiment": content["experiment"], **flatten(content["config"])},
        metrics=_numbers(summary) if summary and is_current else _so_far(history),
        history=history,
        picture=_picture(folder),
    )


def _unless_broken(read: Any, path: Path) -> Any:
    try:
        return read()
    except (ValueError, TypeError, AttributeError, OSError) as error:
        print(f"can't read {path}, going on without it: {one_line(error)}", file=sys.stderr)
        return None


def _picture(folder: Path) -> bytes | None:
    tested = folder / "reconstructions.png"
    validated = sorted((folder / "pictures").glob("reconstructions-*.png"))
    paths = [path for path in (tested, *validated[-1:]) if path.exists()]
    return paths[0].read_bytes() if paths else None


def _from_server(run: Any) -> Record:
    """Of its history, at most 500 rows, evenly spaced: more are not seen in a curve."""
    history = [_logged(row) for row in read_rows(run, 500) if "step" in row]
    summary = dict(run.summary)
    picture = summary.get("test/reconstructions") or summary.get("reconstructions")
    return Record(
        name=run.name,
        where="/".join(run.path),
        state=run.state if run.state in ("finished", "running") else "stopped",
        config={"experiment": run.job_type, **flatten(run.config)},
        metrics=_numbers(summary),
        history=history,
        picture=read_file(run, picture["path"]) if picture else None,
    )


def _logged(row: dict[str, Any]) -> Row:
    """What a history of ours holds of W&B's row: not its own columns, nor media, nor what the test added."""
    return {key: value for key, value in row.items() if _is_number(value) and not key.startswith(("_", "test/"))}


def _so_far(history: list[Row]) -> dict[str, int | float]:
    """The last validation's metrics, and the best."""
    validated = [row for row in history if any(key.startswith("val/") for key in row)]
    last = {key: value for key, value in validated[-1].items() if key.startswith("val/")} if validated else {}
    return last | best_of(history)


def _numbers(summary: dict[str, Any]) -> dict[str, int | float]:
    """What was measured, of all that a summary holds; not the last row of training."""
    return {
        key: value
        for key, value in summary.items()
        if _is_number(value) and not key.startswith(("_", "train/")) and key not in ("step", "epoch")
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names; empty parts vanish, as they do in W&B."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def canonical(value: Any) -> str:
    """A configuration's value as a text that is the same for the same value; a server may make 20 of 20.0."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def shown(value: Any) -> str:
    """A configuration's value as a person reads it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return " ".join(map(shown, value)) or "none"
        case str():
            return value
    return json.dumps(value)
