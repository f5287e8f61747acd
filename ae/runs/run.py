"""A run: one folder that holds all of it, and one run in W&B that shows it."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ae.data import Splits
from ae.data.identity import data_identity, differences
from ae.models.wrappers import with_names_of
from ae.runs.checkpoint import discard_broken, load_state, save_state
from ae.runs.folder import (
    CONFIG,
    HISTORY,
    LOCK,
    STATE,
    SUMMARY,
    Lock,
    Row,
    best_of,
    history_lines,
    json_bytes,
    make_folder,
    read_config,
    read_history,
    read_summary,
    to_json,
)
from ae.runs.resume import changes
from ae.tracking.connection import Mode, effective, new_run_id
from ae.tracking.media import Media, png
from ae.tracking.options import check_environment, check_options, check_settings
from ae.tracking.tracker import Tracker
from ae.tracking.wandb_types import Watch
from ae.utils.console import say
from ae.utils.distributed import from_main, is_main, on_main
from ae.utils.errors import InputError, StorageError, one_line
from ae.utils.files import describe, exists, is_number, json_text, plain_number, remove_temporaries, sync, write_whole
from ae.utils.signals import ending, uninterrupted
from ae.utils.validation import AtLeast0, Positive, Settings, checked
from ae.weights import load_weights, read_metadata, save_weights

if TYPE_CHECKING:
    from PIL.Image import Image

_RESERVED = ("step", "epoch", "_step", "_runtime", "_timestamp", "_wandb")


@dataclass(frozen=True)
class RunConfig(Settings):
    """Where a run is kept, and how it is tracked; W&B's own WANDB_... variables hold where a field is not given."""

    dir: Path | None = None  # the run's folder (default: runs/EXPERIMENT-TIME-ID)
    resume: Path | None = None  # continue the run in this folder, with its configuration; other flags override
    fork: Path | None = None  # start a new run from the weights of the one in this folder, with its configuration
    save_every: Positive[int] | None = None  # steps between saved states, beside those at each validation
    save_minutes: Positive[float] = 5.0  # and minutes
    wandb: Mode = "auto"  # auto: online when logged in, else offline
    project: str | None = None  # project in W&B (default: ae)
    entity: str | None = None  # user or team in W&B that the project belongs to
    group: str | None = None  # runs of a group are shown together: the seeds of one setting, say
    job_type: str | None = None  # kind of run within a group (default: the experiment's name)
    name: str | None = None  # name shown in W&B (default: the folder's)
    tags: tuple[str, ...] = ()  # words to find the run by
    notes: str | None = None  # a sentence on what the run is for
    watch: Watch | None = None  # histograms of these in W&B, as often as values are logged
    patience: Positive[float] = 12.0  # seconds to wait for W&B's server when a run begins, and twice that when it ends

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is not None and self.fork is not None:
            raise InputError("resume and fork exclude each other: continue a run, or start a new one from its weights")
        labels = {name: getattr(self, name) for name in ("project", "entity", "group", "job_type", "name", "notes")}
        check_options(labels, self.tags, type(self).__name__)

    def may_change(self, name: str) -> bool:
        """A run that is continued may be kept and tracked in another way."""
        return True


class Run:
    """A folder with configuration, history, weights, training state, summary and pictures, and the same in W&B.

    As a context manager it finishes the run in W&B too, as failed where an exception or SIGTERM leaves it; elsewhere
    call `finish`. Bad input before anything was logged leaves the folder as it was. `config` is a dataclass or dict,
    kept in `config.json`. A run to be resumed is looked at only, in the folder and in W&B, until its state has been
    accepted: until `rewind`, or whatever else changes it. It goes on with the experiment and the data that it was begun
    with. Nothing that happens to W&B hurts the run: the folder is
    complete without it. A W&B run that is open already is used, and left open. Raises InputError, before anything is
    written, where the folder can't be used or another process has the run open; or, with `may_fall_back=False`, where
    W&B's server can't be reached.
    """

    def __init__(
        self, experiment: str, where: RunConfig | None = None, config: Any = None, *, may_fall_back: bool = True
    ) -> None:
        where = checked(where, RunConfig | None, "where") or RunConfig()
        _check_name(experiment, "experiment")
        self._experiment, self._where, self._may_fall_back = experiment, where, may_fall_back
        self._given, self._config = config, to_json(config)
        self._at: tuple[int, float] | None = None  # step and epoch of the last row
        self._has_begun = self._has_logged = self._is_summarised = self._is_finished = False
        self._tracker: Tracker | None = None
        self._changes: list[dict[str, Any]] = []
        self._data: dict[str, Any] | None = None  # the identity of what it is trained on
        self._saved_at = time.monotonic()
        self.folder, self.id = where.resume or where.dir or Path("runs"), ""
        from_main(self._prepare)

    def _prepare(self) -> None:
        """Make the folder and begin; of a run to be resumed, look at its folder only."""
        where, experiment, config = self._where, self._experiment, self._given
        if effective(where.wandb) != "disabled":
            check_environment()
            check_settings()
        if where.resume is not None:
            self._continue(where.resume, config)
            return
        self.id = new_run_id()
        self.folder = where.dir or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{self.id}"
        make_folder(self.folder)
        self._lock = Lock(self.folder)
        try:
            with ending:  # W&B's server may take its time
                self._begin()
        except (InputError, KeyboardInterrupt, SystemExit):
            self._undo()
            raise

    def _continue(self, folder: Path, config: Any) -> None:
        """Take over what the run in `folder` was begun with, where it may go on as `config` says."""
        before = read_config(folder)
        self.folder, self.id, self._data = folder, before["id"], before.get("data")
        if before["experiment"] != self._experiment:
            raise InputError(
                f"{folder} is a run of {before['experiment']}, which {self._experiment} can't continue; "
                "start from its weights with --run.fork"
            )
        self._changes = before.get("changes", [])
        changed = changes(before["config"], config, self._config)
        changed.pop("run.resume", None)  # which says no more than that it is continued
        read_history(folder)
        read_summary(folder)
        self._lock = Lock(folder)
        if changed:
            self._changes.append(changed)
            listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            say(f"continued with {listed}", error=True)

    @on_main
    def _begin(self) -> None:
        """Open the run in W&B and write its configuration, once."""
        if self._is_finished:
            raise InputError(f"the run in {self.folder} is finished: continue it with --run.resume {self.folder}")
        if self._has_begun:
            return
        if self._lock.keeps_out:
            for place in (self.folder, self.folder / "pictures", self.folder / "tables"):
                remove_temporaries(place)
        self._tracker = self._make_tracker()
        self._write_config()
        self._has_begun = True

    def _write_config(self) -> None:
        content: dict[str, Any] = {"version": version("ae"), "experiment": self._experiment, "id": self.id}
        content["config"] = self._config
        if self._changes:
            content["changes"] = self._changes
        if self._data is not None:
            content["data"] = self._data
        with self._writing():
            write_whole(self.folder / CONFIG, json_bytes(content))

    def begin_training(self, data: Splits) -> None:
        """Note what the run is trained on; raises InputError where a run that is continued was begun on other data."""
        from_main(lambda: self._compare_data(data))

    def _compare_data(self, data: Splits) -> None:
        identity = data_identity(data)
        if self._data is None:
            self._data = identity
            if self._has_begun:
                self._write_config()
        elif changed := differences(self._data, identity):
            raise InputError(
                f"the run in {self.folder} was begun on other data: {'; '.join(changed)}; "
                "give it the data that it had, or start from its weights with --run.fork"
            )

    def _make_tracker(self) -> Tracker | None:
        where = self._where
        if effective(where.wandb) == "disabled":
            return None
        return Tracker(
            where.wandb,
            self.folder,
            where.patience,
            partial(read_history, self.folder),
            is_new=where.resume is None,
            may_fall_back=self._may_fall_back,
            defaults={"project": "ae", "job_type": self._experiment, "name": self.folder.resolve().name},
            id=self.id,
            config=self._config,
            project=where.project,
            entity=where.entity,
            group=where.group,
            job_type=where.job_type,
            name=where.name,
            tags=where.tags or None,
            notes=where.notes,
        )

    @on_main
    def log(
        self, row: Mapping[str, Any], step: int, epoch: float, pictures: Mapping[str, "Image"] | None = None
    ) -> None:
        """Add what was measured at `step`, once a step, to the history and W&B; pictures to the folder `pictures`.

        Values are numbers, also NumPy's and tensors of one number; one that is not finite is null in the history.
        Raises InputError that names the key of another value, or of one that is not the row's to give.
        """
        step = checked(plain_number(step), AtLeast0[int], "step")
        epoch = checked(plain_number(epoch), AtLeast0[float], "epoch")
        measured = {key: _measured(key, value) for key, value in row.items()}
        for name in pictures or {}:
            _check_name(name, "a picture's name")
        self._begin()
        self._has_logged = True
        self._at = step, epoch
        logged: Row = {"step": step, "epoch": epoch, **measured}
        with uninterrupted(), self._writing():  # what is in the history is in W&B too
            for name, picture in (pictures or {}).items():
                path = self.folder / "pictures" / f"{name}-{step:08d}.png"
                path.parent.mkdir(exist_ok=True)
                write_whole(path, png(picture))
            with open(self.folder / HISTORY, "a", encoding="utf-8") as history:
                history.write(json_text(logged) + "\n")
            self._track(logged)

    @on_main
    def watch(self, model: nn.Module) -> None:
        """Show histograms of gradients or parameters in W&B with every row, if the configuration asks for it."""
        self._begin()
        if self._tracker and self._where.watch:
            self._tracker.watch(model, self._where.watch)

    def saves_after(self, step: int) -> bool:
        """Whether the training state is to be saved after `step` steps, by `save_every`."""
        return self._where.save_every is not None and step % self._where.save_every == 0

    def wants_state(self) -> bool:
        """Whether the training state is to be saved now: by `save_minutes`, or as a signal waits for that."""
        return self.is_asked_to_end or (time.monotonic() - self._saved_at) / 60 >= self._where.save_minutes

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the training state; the one before it is kept too. A signal that waits for that takes effect."""
        self._begin()
        self._write_state(state)
        self._saved_at = time.monotonic()
        ending.take_effect()

    @on_main
    def _write_state(self, state: dict[str, Any]) -> None:
        with uninterrupted(), self._writing():
            sync(self.folder / HISTORY)  # a power cut must not take rows that a resumed run will not make again
            save_state(self.folder / STATE, state)

    def deferring_signals(self) -> AbstractContextManager[None]:
        """Inside, signals that end the run wait until the next `save_state`, which `wants_state` then asks for."""
        return ending.deferred()

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a signal that ends the run waits for the next `save_state`."""
        return ending.is_asked

    def load_state(self) -> dict[str, Any] | None:
        """The training state to continue from; None for a new run.

        Raises InputError where a run that has come further has lost its state: it would begin again.
        """
        return from_main(self._load_state)

    def _load_state(self) -> dict[str, Any] | None:
        state = load_state(self.folder / STATE)
        if state is not None or self._where.resume is None:
            return state
        history = self.history()
        left = [name for name in (SUMMARY, "model.safetensors", "best.safetensors") if exists(self.folder / name)]
        if history or left:
            held = f"its history goes to step {history[-1]['step']}" if history else f"it holds {left[0]}"
            raise InputError(
                f"can't continue {self.folder}: {STATE} is gone, and {held}; start from its weights with --run.fork"
            )
        return None

    @on_main
    def load_fork(self, model: nn.Module) -> None:
        """The weights of the run that this one is a fork of, if it is one: its final ones, or those it has come to."""
        folder = self._where.fork
        if folder is None:
            return
        if exists(folder / "model.safetensors"):
            load_weights(folder / "model.safetensors", model)
            return
        state = load_state(folder / STATE)
        if state is None:
            raise InputError(f"can't fork {folder}: it holds no weights yet")
        trained = state.get("trained", {})
        weights = {key.removeprefix("model."): value for key, value in trained.items() if key.startswith("model.")}
        try:
            model.load_state_dict(with_names_of(model, weights))
        except RuntimeError as error:
            raise InputError(f"the weights of {folder} do not fit this model: {one_line(error)}") from error

    @on_main
    def rewind(self, step: int) -> None:
        """Go back to `step`: what the history holds after it is made again. W&B gets what it lacks of the rest."""
        self._begin()
        discard_broken(self.folder / STATE)
        path = self.folder / HISTORY
        kept = [(line, row) for line, row in history_lines(self.folder) if row["step"] <= step]
        if exists(path):
            with self._writing():
                write_whole(path, "".join(f"{line}\n" for line, _ in kept).encode())
        for _, row in kept:
            self._track_again(row)

    def history(self) -> list[Row]:
        """The rows logged so far."""
        return read_history(self.folder)

    @on_main
    def save_weights(
        self,
        name: Literal["model", "best", "prior"],
        model: nn.Module,
        image: Sequence[int] | None = None,
        classes: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write the model's weights as `NAME.safetensors`, and what is to be known of them."""
        self._begin()
        with self._writing():
            save_weights(self.folder / f"{name}.safetensors", model, image, classes, metrics)

    @on_main
    def summarise(self, summary: dict[str, Any], media: Media | None = None) -> None:
        """Write the final numbers, with the best validation's, as `summary.json`, and the final pictures; W&B gets all.

        `best/val/...` is the highest or lowest that a metric was, whichever is better; `step` and `epoch` the last.
        """
        self._begin()
        media = media or Media()
        step, epoch = self._at or (0, 0.0)
        summary = {"step": step, "epoch": epoch, **summary, **best_of(self.history())}
        with self._writing():
            write_whole(self.folder / SUMMARY, json_bytes(summary))
            media.save(self.folder)
        self._track_end(summary, media)

    def upload(self) -> bool:
        """Give W&B all that the folder holds of a run that has ended; returns whether it came to its summary."""
        self._begin()
        for row in self.history():
            self._track_again(row)
        if self._tracker:
            self._tracker.send_missing_files()
        summary = read_summary(self.folder)
        if summary is not None:
            self._track_end(summary, Media.load(self.folder))
        return summary is not None

    @on_main
    def finish(self, exit_code: int = 0) -> None:
        """End the run in W&B, and print where it is and, if it is not all there, the command that uploads it.

        Where it never came to its summary, W&B gets its best metrics and weights nevertheless.
        """
        if self._tracker:
            if not self._is_summarised:
                self._track_end(best_of(self.history()), Media())
            say(self._tracker.finish(exit_code))
            self._tracker = None
        self._is_finished = True
        self._lock.release()

    def __enter__(self) -> "Run":
        ending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, InputError) and is_main() and not self._has_logged and self._where.resume is None:
                if self._tracker:
                    self._tracker.finish(2)
                self._undo()
            else:
                self.finish(_exit_code(error))
        finally:
            ending.__exit__(kind, error, trace)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside, a folder that can't be written to ends the run with one clear line."""
        try:
            yield
        except OSError as error:
            hint = f"; what it holds is whole: continue with --run.resume {self.folder}" if self.folder.exists() else ""
            raise StorageError(f"can't write in {self.folder}: {error.strerror or error}{hint}") from error

    def _track(self, row: Row) -> None:
        if self._tracker:
            self._tracker.log(row)

    def _track_again(self, row: Row) -> None:
        self._at = int(row["step"]), row.get("epoch", 0.0)
        self._track(row)

    def _track_end(self, summary: dict[str, Any], media: Media) -> None:
        self._is_summarised = True
        if self._tracker:
            step, epoch = self._at or (0, 0.0)
            self._tracker.summarise(summary, media, {"step": step, "epoch": epoch}, self._weights(summary))

    def _weights(self, summary: dict[str, Any]) -> list[tuple[list[str], Path, dict[str, Any]]]:
        """The files of weights with their aliases and what was measured of them; W&B calls the last one the latest."""
        best, final = self.folder / "best.safetensors", self.folder / "model.safetensors"
        if best.exists() and final.exists() and best.read_bytes() == final.read_bytes():
            return [(["best", "latest"], final, {"model": read_metadata(final).model, **summary})]
        metrics = {key: value for key, value in summary.items() if key.startswith("best/")}
        found = [(["best"], best, metrics), (["latest"], final, summary)]
        return [
            (aliases, path, {"model": read_metadata(path).model, **measured})
            for aliases, path, measured in found
            if path.exists()
        ]

    def _undo(self) -> None:
        """Leave the folder as it was before bad input ended this new run."""
        for name in (CONFIG, STATE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)
        self._lock.release()
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # it holds what was there before
            self.folder.rmdir()


def _measured(key: Any, value: Any) -> int | float:
    """A value of a row as Python's number."""
    if not isinstance(key, str) or not key or key in _RESERVED:
        raise InputError(f"{key!r} can't be logged as a key: it must be text, and none of {', '.join(_RESERVED)}")
    number = plain_number(value)
    if not isinstance(number, Real):
        raise InputError(f"{key} must be a number to be logged, got {describe(value)}")
    number = int(number) if isinstance(number, Integral) else float(number)
    if isinstance(number, int) and not is_number(number):
        raise InputError(f"{key} must be a number that a float can hold, got one of {number.bit_length()} bits")
    return number


def _check_name(name: Any, what: str) -> None:
    """Raise InputError where something can't be a part of a file's name."""
    if not isinstance(name, str) or not name or set(name) & set("/\\\0\n"):
        raise InputError(f"{what} must be text that a file's name can hold, got {name!r}")


def _exit_code(error: BaseException | None) -> int:
    """Exit code of a process that ends with this exception."""
    match error:
        case None:
            return 0
        case SystemExit(code=int(code)):
            return code
        case SystemExit(code=None):
            return 0
        case KeyboardInterrupt():
            return 130
    return 1
