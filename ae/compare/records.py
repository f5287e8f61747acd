"""Read runs from folders and from W&B."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ae.compare.values import flatten, is_finite, is_real, nesting_exceeds
from ae.runs.folder import CONFIG, HISTORY, best_of, read_config, read_history, read_summary
from ae.runs.lock import is_running
from ae.tracking.row_log import Row
from ae.tracking.server import find_runs, read_file, read_rows
from ae.utils.console import say
from ae.utils.errors import InputError, one_line, printable
from ae.utils.files import read_bytes, read_json
from ae.utils.validation import checked_arguments

State = Literal["finished", "running", "stopped"]
T = TypeVar("T")

_SWEEP = "sweep.json"  # in the folder of a study, beside the folders of its trials
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_DEPTH = 50  # levels of dicts and lists in a configuration
_MAX_ROWS = 500  # of a history in W&B: a curve shows no more


@dataclass(frozen=True)
class Record:
    """A run: its configuration, metrics, history and state.

    config   every field by its dotted name, such as `model.latent`, and `experiment`
    metrics  numbers of the summary; without a summary, of the last validation, and the best of each
    picture  reconstructions of test images as a PNG; of validation images where the run was not tested
    goal     metric of the run's sweep, and whether to maximise it; None outside a sweep
    """

    name: str
    where: str  # the run's folder, or its path in W&B
    state: State
    config: dict[str, Any]
    metrics: dict[str, int | float]
    history: list[Row] = field(default_factory=list)
    picture: bytes | None = None
    goal: tuple[str, bool] | None = None

    @property
    def step(self) -> int:
        """Last logged step; 0 without a history."""
        return int(max((row["step"] for row in self.history if is_finite(row.get("step"))), default=0))

    def value(self, metric: str) -> int | float | None:
        """Return a metric; None where it is missing or not finite."""
        value = self.metrics.get(metric)
        return value if is_finite(value) else None


@checked_arguments
def read_runs(sources: Sequence[str | Path]) -> list[Record]:
    """Read the runs in folders, in their subfolders, under globs, or in W&B: `wandb:entity/project[/group]`.

    Runs keep the order of the sources; duplicates are dropped. A run without a readable configuration is skipped. An
    unreadable summary, history or picture is omitted. Each such file is reported in a line on stderr. Raises
    InputError where a source has no run, or no readable one.
    """
    records: dict[str, Record] = {}
    for source in map(str, sources):
        if source.startswith("wandb:"):
            runs = [_from_server(run) for run in find_runs(source.removeprefix("wandb:"))]
        else:
            runs = _read_folders(_find_folders(source), source)
        records |= {run.where: run for run in runs}
    return list(records.values())


def _read_folders(folders: list[Path], source: str) -> list[Record]:
    studies = dict.fromkeys(folder.resolve().parent for folder in folders)
    goals = {study: _read_if_valid(_read_goal, study) for study in studies}
    records, reasons = [], []
    for folder in folders:
        try:
            records.append(read_run(folder, goals[folder.resolve().parent]))
        except InputError as error:
            reasons.append(one_line(error))
    if not records:
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise InputError(f"no run in {source} can be read: {reasons[0]}{more}")
    for reason in reasons:
        say(printable(f"skipping a run: {reason}"), error=True)
    return records


def _find_folders(source: str) -> list[Path]:
    """Find the folders of runs at a path or glob; raises InputError where there is none."""
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
    """Yield the folders of runs at or below a path; reports each folder that can't be listed."""

    def report(error: OSError) -> None:
        say(printable(f"skipping a folder: {one_line(error)}"), error=True)

    for folder, subfolders, files in os.walk(path, onerror=report):
        if CONFIG in files:
            subfolders.clear()
            yield Path(folder)
        subfolders.sort()


def read_run(folder: Path, goal: tuple[str, bool] | None = None) -> Record:
    """Read the run in a folder; raises InputError without a valid configuration."""
    content = read_config(folder)
    if nesting_exceeds(content, _MAX_DEPTH):
        raise InputError(f"{folder / CONFIG} nests dicts and lists in more than {_MAX_DEPTH} levels")
    history = _read_if_valid(_read_rows, folder) or []
    summary = _read_if_valid(read_summary, folder)
    last = max((row["step"] for row in history), default=0)
    summary_step = (summary or {}).get("step", last)
    is_current = summary is not None and is_finite(summary_step) and summary_step >= last  # else it was resumed since
    state: State = "running" if is_running(folder) else "finished" if is_current else "stopped"
    return Record(
        name=folder.resolve().name,
        where=str(folder.resolve()),
        state=state,
        config={"experiment": content["experiment"], **flatten(content["config"])},
        metrics=_numbers(summary) if summary and is_current else _validation_metrics(history),
        history=history,
        picture=_picture(folder),
        goal=goal,
    )


def _read_if_valid(read: Callable[[Path], T], path: Path) -> T | None:
    """Read a folder or file; return None and report it on stderr where it is broken."""
    try:
        return read(path)
    except InputError as error:
        say(f"{printable(one_line(error))}; going on without it", error=True)
        return None


def _read_rows(folder: Path) -> list[Row]:
    """Read the numbers of a history; raises InputError for a row without a step."""
    rows = read_history(folder)
    for number, row in enumerate(rows, 1):
        if not is_finite(row["step"]):
            reason = f"row {number}: step must be a number, got {row['step']!r:.50}"
            raise InputError(f"can't read {folder / HISTORY}: {reason}")
    return [{key: value for key, value in row.items() if is_real(value)} for row in rows]


def _read_goal(folder: Path) -> tuple[str, bool] | None:
    """Read the metric of a study and whether to maximise it; None where the folder has no study."""
    path = folder / _SWEEP
    if not path.exists():
        return None
    content = read_json(path)
    metric, maximize = (content.get(key) if isinstance(content, dict) else None for key in ("metric", "maximize"))
    if not isinstance(metric, str) or not isinstance(maximize, bool):
        raise InputError(f"can't read {path}: it must have metric, a text, and maximize, true or false")
    return metric, maximize


def _picture(folder: Path) -> bytes | None:
    """Read the reconstructions of test images, else of the last validation."""
    tested = folder / "reconstructions.png"
    validated = sorted((folder / "pictures").glob("reconstructions-*.png"))
    path = next((path for path in (tested, *validated[-1:]) if path.exists()), None)
    return None if path is None else _read_if_valid(_png, path)


def _png(path: Path) -> bytes:
    content = read_bytes(path)
    if not content.startswith(_PNG):
        raise InputError(f"can't read {path}: it is not a PNG")
    return content


def _from_server(run: Any) -> Record:
    history = [_logged(row) for row in read_rows(run, _MAX_ROWS) if "step" in row]
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
    """Select the numbers of a row that a history has: not W&B's internal ones, nor those of the test."""
    return {key: value for key, value in row.items() if is_real(value) and not key.startswith(("_", "test/"))}


def _validation_metrics(history: list[Row]) -> dict[str, int | float]:
    """Return the metrics of the last validation, and the best of each."""
    finite = [{key: value for key, value in row.items() if is_finite(value)} for row in history]
    validated = [row for row in history if any(key.startswith("val/") for key in row)]
    last = {key: value for key, value in validated[-1].items() if key.startswith("val/")} if validated else {}
    return last | best_of(finite)


def _numbers(summary: Mapping[str, Any]) -> dict[str, int | float]:
    """Select the metrics of a summary, without those of training."""
    return {
        key: value
        for key, value in summary.items()
        if is_real(value) and not key.startswith(("_", "train/")) and key not in ("step", "epoch")
    }
