"""Runs as they are found, in folders and in W&B."""

import glob
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ae.runs.folder import CONFIG, HISTORY, Row, best_of, is_running, read_config, read_history, read_summary
from ae.tracking.server import find_runs, read_file, read_rows
from ae.utils.console import say
from ae.utils.errors import InputError, one_line, printable
from ae.utils.files import read_bytes, read_json
from ae.utils.validation import checked_arguments

State = Literal["finished", "running", "stopped"]
T = TypeVar("T")

STUDY = "sweep.json"  # in the folder of a study, which holds the runs of its trials
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 1e150  # of a metric: its square is finite
_DEEPEST = 50  # of a configuration: dicts and lists within each other


@dataclass(frozen=True)
class Record:
    """A run: what it was asked to do, what it has measured, and how far it has come.

    config   every field by its dotted name, as in `model.latent`, and `experiment`
    metrics  the summary's numbers; of a run without a summary, the last validation's and the best ones
    picture  its reconstructions of test images as a PNG; of a run that has not been tested, of validation images
    goal     the metric by which the run's sweep decides, and whether it is maximised; None outside of a sweep
    """

    name: str
    where: str  # its folder, or its address in W&B
    state: State
    config: dict[str, Any]
    metrics: dict[str, int | float]
    history: list[Row] = field(default_factory=list)
    picture: bytes | None = None
    goal: tuple[str, bool] | None = None

    @property
    def step(self) -> int:
        """The last step that it logged; 0 if none."""
        return int(max((row["step"] for row in self.history if is_number(row.get("step"))), default=0))

    def value(self, metric: str) -> int | float | None:
        """A metric, where the run has it and it is a finite number."""
        value = self.metrics.get(metric)
        return value if is_number(value) else None


@checked_arguments
def read_runs(sources: Sequence[str | Path]) -> list[Record]:
    """The runs in folders, in folders of folders, under globs, or in W&B: `wandb:entity/project[/group]`.

    In the order given, each once. A run whose configuration can't be read is skipped; one whose summary, history or
    picture can't be read is read without it. Each is said in a line. Raises InputError where a source holds no run, or
    none that can be read.
    """
    records: dict[str, Record] = {}
    for source in map(str, sources):
        if source.startswith("wandb:"):
            found = [_from_server(run) for run in find_runs(source.removeprefix("wandb:"))]
        else:
            found = _read_folders(_find_folders(source), source)
        records |= {record.where: record for record in found}
    return list(records.values())


def _read_folders(folders: list[Path], source: str) -> list[Record]:
    studies = dict.fromkeys(folder.resolve().parent for folder in folders)
    goals = {study: _unless_broken(_read_goal, study) for study in studies}
    records, reasons = [], []
    for folder in folders:
        try:
            records.append(read_run(folder, goals[folder.resolve().parent]))
        except InputError as error:
            reasons.append(one_line(error))
    if not records:
        others = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise InputError(f"no run in {source} can be read: {reasons[0]}{others}")
    for reason in reasons:
        say(printable(f"skipping a run: {reason}"), error=True)
    return records


def _find_folders(source: str) -> list[Path]:
    """The runs' folders that a path or a glob leads to; raises InputError where there is none."""
    try:
        paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(source)))]
    except ValueError as error:  # a null character
        raise InputError(f"no run in {source!r}: {one_line(error)}") from error
    folders = [folder for path in paths for folder in _folders_in(path)]
    if not folders:
        missing = "" if paths else ", which does not exist"
        raise InputError(f"no run in {source}{missing}: give a run's folder, one that holds such folders, or a glob")
    return list(dict.fromkeys(folders))


def _folders_in(path: Path) -> Iterator[Path]:
    """The run's folder, or those below it; a folder that can't be listed is named in a line."""

    def skipped(error: OSError) -> None:
        say(printable(f"skipping a folder: {one_line(error)}"), error=True)

    for place, below, files in os.walk(path, onerror=skipped):
        if CONFIG in files:
            below.clear()
            yield Path(place)
        below.sort()


def read_run(folder: Path, goal: tuple[str, bool] | None = None) -> Record:
    """The run in a folder, which may be a trial of a sweep with a `goal`; raises InputError where there is none."""
    content = read_config(folder)
    if _is_deep(content):
        raise InputError(f"{folder / CONFIG} holds more than {_DEEPEST} dicts and lists within each other")
    history = _unless_broken(_read_rows, folder) or []
    summary = _unless_broken(read_summary, folder)
    last = max((row["step"] for row in history), default=0)
    tested_at = (summary or {}).get("step", last)
    is_current = summary is not None and is_number(tested_at) and tested_at >= last  # else it has gone on since
    state: State = "running" if is_running(folder) else "finished" if is_current else "stopped"
    return Record(
        name=folder.resolve().name,
        where=str(folder.resolve()),
        state=state,
        config={"experiment": content["experiment"], **flatten(content["config"])},
        metrics=_numbers(summary) if summary and is_current else _so_far(history),
        history=history,
        picture=_picture(folder),
        goal=goal,
    )


def _unless_broken(read: Callable[[Path], T], path: Path) -> T | None:
    """Read a folder or file; where it is broken, return None and say so in a line on stderr."""
    try:
        return read(path)
    except InputError as error:
        say(f"{printable(one_line(error))}; going on without it", error=True)
        return None


def _read_rows(folder: Path) -> list[Row]:
    """The history's numbers; raises InputError where a row has no step."""
    rows = read_history(folder)
    for number, row in enumerate(rows, 1):
        if not is_number(row["step"]):
            reason = f"row {number}: step must be a number, got {row['step']!r:.50}"
            raise InputError(f"can't read {folder / HISTORY}: {reason}")
    return [{key: value for key, value in row.items() if _is_real(value)} for row in rows]


def _read_goal(folder: Path) -> tuple[str, bool] | None:
    """The metric of the study in a folder, and whether it is maximised; None where the folder is no study's."""
    path = folder / STUDY
    if not path.exists():
        return None
    content = read_json(path)
    metric, maximize = (content.get(key) if isinstance(content, dict) else None for key in ("metric", "maximize"))
    if not isinstance(metric, str) or not isinstance(maximize, bool):
        raise InputError(f"can't read {path}: it must have metric, a text, and maximize, true or false")
    return metric, maximize


def _picture(folder: Path) -> bytes | None:
    tested = folder / "reconstructions.png"
    validated = sorted((folder / "pictures").glob("reconstructions-*.png"))
    path = next((path for path in (tested, *validated[-1:]) if path.exists()), None)
    return None if path is None else _unless_broken(_png, path)


def _png(path: Path) -> bytes:
    content = read_bytes(path)
    if not content.startswith(_PNG):
        raise InputError(f"can't read {path}: it is no PNG")
    return content


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
    """Columns of W&B's row that a history has: not W&B's own, nor media, nor those of the test."""
    return {key: value for key, value in row.items() if _is_real(value) and not key.startswith(("_", "test/"))}


def _so_far(history: list[Row]) -> dict[str, int | float]:
    """The last validation's metrics, and the best."""
    finite = [{key: value for key, value in row.items() if is_number(value)} for row in history]
    validated = [row for row in history if any(key.startswith("val/") for key in row)]
    last = {key: value for key, value in validated[-1].items() if key.startswith("val/")} if validated else {}
    return last | best_of(finite)


def _numbers(summary: Mapping[str, Any]) -> dict[str, int | float]:
    """Measurements in a summary, without the last row of training."""
    return {
        key: value
        for key, value in summary.items()
        if _is_real(value) and not key.startswith(("_", "train/")) and key not in ("step", "epoch")
    }


def _is_real(value: Any) -> bool:
    """Whether a value is a number; NaN and infinities are."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_float(value)


def _is_float(value: int | float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that can be calculated with: no bool, and no larger than 1e150."""
    return _is_real(value) and math.isfinite(value) and abs(float(value)) <= _LARGEST


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names; empty parts vanish, as they do in W&B."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _is_deep(content: Any) -> bool:
    """Whether dicts and lists lie within each other in more than `_DEEPEST` layers."""
    layer = [content]
    for _ in range(_DEEPEST):
        parts = [part for part in layer if isinstance(part, dict | list)]
        layer = [value for part in parts for value in (part.values() if isinstance(part, dict) else part)]
    return any(isinstance(part, dict | list) for part in layer)


def canonical(value: Any) -> str:
    """A configuration's value as a text that is the same for the same value; a server may make 20 of 20.0."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(value), default=str)


def shown(value: Any) -> str:
    """A configuration's value as a person reads it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return " ".join(map(shown, value)) or "none"
        case str():
            return value
    return json.dumps(value, default=str)
