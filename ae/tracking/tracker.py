"""A run in Weights & Biases. Errors of W&B never reach the run that it tracks."""

import hashlib
import io
import os
import re
import secrets
import shlex
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from ae.tracking.media import Media, Table, is_picture
from ae.tracking.options import is_true, make_places
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.signals import hurry

if TYPE_CHECKING:
    import wandb

Row = dict[str, int | float]
"""Metrics by their keys, `step` and `epoch` among them."""
Mode = Literal["auto", "online", "offline", "disabled"]
Watch = Literal["gradients", "parameters", "all"]

_TRANSMIT_EVERY = 5  # seconds between uploads of rows
_CHART = "confusion"  # the table that W&B shows as a chart, and keeps as NAME_table
_RETRY_AT_LEAST_EVERY = 4  # seconds, while the server fails
_LONGEST_DEFAULT = 128  # characters that W&B takes of a name
_MANY = 1_000_000  # rows
_REOPENINGS = 3  # of a run whose service process dies
_VARIABLES = {"project": "WANDB_PROJECT", "job_type": "WANDB_JOB_TYPE", "name": "WANDB_NAME"}
_FORMER_MODES = {"run": "online", "dryrun": "offline"}

_ours: "weakref.WeakSet[wandb.Run]" = weakref.WeakSet()  # runs that were opened here, and not by the user


def _may_save_code() -> bool:
    """Whether the user has not forbidden it by W&B's variables."""
    return is_true("WANDB_SAVE_CODE", default=True) and not is_true("WANDB_DISABLE_CODE")


def effective(mode: Mode) -> str:
    """The mode that holds: `auto` leaves it to W&B's variables."""
    if mode != "auto":
        return mode
    wanted = os.environ.get("WANDB_MODE") or ("disabled" if is_true("WANDB_DISABLED") else mode)
    return _FORMER_MODES.get(wanted, wanted)


def _users_run() -> "wandb.Run | None":
    """The W&B run that the user has open, and not one that an unfinished `Run` has."""
    opened = getattr(sys.modules.get("wandb"), "run", None)
    return None if opened is None or opened in _ours else opened


def new_run_id() -> str:
    """A new id, or the one that a sweep's agent or the user has chosen, or that of the W&B run that is open.

    Raises InputError where a run of the chosen id is open.
    """
    opened = _users_run()
    if opened is not None:
        return opened.id
    chosen = os.environ.get("WANDB_RUN_ID")
    if chosen and any(run.id == chosen for run in _ours):
        raise InputError(f"WANDB_RUN_ID={chosen} is the id of a run that is open: finish that run, or unset it")
    return chosen or secrets.token_hex(4)


class Tracker:
    """One run in W&B: the one that the user has open, or its own, online if it can be, else offline.

    W&B's own step is the training step, and a step is logged once: so a resumed run may log everything again, and W&B
    takes what it has not got. A part of what is logged that W&B fails to take is done without, and `finish` says so. A
    run whose service process dies is opened again. `options` are those of `wandb.init`; one that is None is left to
    W&B's environment variable, and without that to `defaults`. `history` gives the rows logged so far. Raises
    InputError where W&B refuses them.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        patience: float,
        history: Callable[[], Sequence[Row]],
        defaults: Mapping[str, str],
        is_new: bool,
        may_fall_back: bool = True,
        **options: Any,
    ) -> None:
        import wandb

        self._wandb = wandb
        self._mode, self._folder, self._patience, self._pid = mode, folder, patience, os.getpid()
        self._history = history
        self._missing: dict[str, str] = {}  # what W&B has failed to take, and why
        self._threads: list[threading.Thread] = []
        self._watched: tuple[nn.Module, Watch] | None = None
        self._was_online = False
        self._lacks_test = False  # whether the server has not all that an earlier part showed of the test
        self._first_step, self._last_step = 0, -1
        self._pictures: set[tuple[str, str]] = set()  # how the files of the pictures that were logged begin and end
        self._is_new, self._reopenings = is_new, 0
        self._options = dict(options)
        for key, value in defaults.items():
            if options.get(key) is None and not os.environ.get(_VARIABLES[key]):
                self._options[key] = value.encode(errors="replace").decode()[:_LONGEST_DEFAULT]
        self._run: wandb.Run | None = _users_run()
        self._is_ours = self._has_our_steps = self._run is None
        if self._run is not None:
            self._first_step = int(max((row["step"] for row in history()), default=-1)) + 1
            with self._without("configuration"):
                self._run.config.update(options["config"], allow_val_change=True)
            self._define_metrics()
        else:
            try:
                self._begin_in_a_live_service(may_fall_back, _resume(is_new))
            except InputError:
                raise
            except Exception as error:  # W&B can't even begin: its service does not start, its folder can't be written
                say(f"W&B  this run is not tracked: {one_line(error)}", error=True)
        if self._run is not None and _may_save_code():
            self._in_background(self._save_code, "code")

    def log(self, row: Row) -> None:
        """Log metrics by their keys, `step` and `epoch` among them, and the pictures of this step in the run's folder.

        What W&B has already is not logged again. A process that was forked logs nothing.
        """
        if self._run is None or int(row["step"]) < self._first_step or os.getpid() != self._pid:
            return
        try:
            self._log_row(row)
        except Exception as error:
            self._reopen(error)

    def watch(self, model: nn.Module, what: Watch) -> None:
        """Add histograms of the model's gradients or parameters to every row that is logged from now on."""
        self._watched = model, what

    def summarise(
        self,
        summary: dict[str, Any],
        media: Media,
        at: Mapping[str, int | float],
        weights: Sequence[tuple[Sequence[str], Path, dict[str, Any]]],
    ) -> None:
        """Set the run's final numbers, log what the test shows, and save weights (aliases, file, metadata)."""

        def send() -> None:
            self._revive()
            test = {key: value for key, value in summary.items() if key.startswith("test/") and key.count("/") == 1}
            shown = [name if name != _CHART else f"{name}_table" for name in (*media.pictures, *media.tables)]
            with self._without("test"):
                if not self._has_logged({f"test/{name}" for name in shown}, test):
                    self._log_test(test, media, at)
            with self._without("summary"):
                self._opened.summary.update(summary)
            for aliases, path, metadata in weights:
                with self._without("weights"):
                    artifact = self._wandb.Artifact(f"model-{self._opened.id}", "model", metadata=metadata)
                    artifact.add_file(str(path), name="model.safetensors", policy="immutable", skip_cache=True)
                    self._opened.log_artifact(artifact, aliases=list(aliases))

        if self._run is not None:
            self._in_background(send)

    def finish(self, exit_code: int) -> str:
        """End the run in W&B; returns the line that says where it is, and how to upload what is not there."""
        upload = f"upload with `python -m ae.upload --run {shlex.quote(str(self._folder))}`"
        deadline = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._missing["answers"] = "the server does not answer"
        if self._run is None:
            return f"W&B  {self._lost() if self._missing else 'this run is not tracked'}: {upload}"
        run, part, online = self._run, Path(self._run.dir).parent, not self._run.offline
        look = f"look with `wandb leet {shlex.quote(str(part))}`"
        if not self._is_ours:
            return f"W&B  {part} (left open)" + (f", {self._lost()}: {upload}" if self._missing else "")
        url = run.url if online else None
        try:
            with _muted():  # what W&B says at length is said in one line below
                run.finish(exit_code=exit_code)
        except Exception as error:
            self._missing["end"] = one_line(error)
        _ours.discard(run)
        self._finalizer.detach()
        if not online and not self._missing and not self._was_online:
            return f"W&B  offline: {look}, upload with `wandb sync {shlex.quote(str(part))}`"
        if not online:
            return f"W&B  offline{f', {self._lost()}' if self._missing else ''}: {look}, {upload}"
        if "answers" not in self._missing:
            self._look_for_what_is_missing()
        if self._missing:
            return f"W&B  not all has reached the server, {self._lost()}: {look}, {upload}"
        return f"W&B  {url}"

    @property
    def _opened(self) -> "wandb.Run":
        assert self._run is not None
        return self._run

    def _lost(self) -> str:
        """The parts that W&B has not got, in words."""
        return f"missing: {', '.join(self._missing)}"

    def _begin_in_a_live_service(self, may_fall_back: bool, resume: str) -> None:
        """Open our own run; where W&B's service, that of an earlier run, is dead, in a new one."""
        try:
            self._begin(may_fall_back, resume)
        except Exception as error:
            if not _is_of_dead_service(error):
                raise
            self._forget_service()
            self._begin(may_fall_back, resume)

    def _begin(self, may_fall_back: bool, resume: str) -> None:
        """Open our own run."""
        make_places()
        self._run = _abandonable(lambda: self._open(may_fall_back, resume))
        _ours.add(self._run)
        self._service = os.environ.get("WANDB_SERVICE")
        self._finalizer = weakref.finalize(self, _finish_forgotten, self._run)
        self._finalizer.atexit = False  # W&B does that itself
        self._first_step = self._continue()
        self._define_metrics()

    def _define_metrics(self) -> None:
        with self._without("axes"):
            for key in ("step", "epoch"):
                self._opened.define_metric(key, hidden=True)
            for key in ("train/*", "val/*", "test/*", "reconstructions"):
                self._opened.define_metric(key, step_metric="step")

    def _open(self, may_fall_back: bool, resume: str) -> "wandb.Run":
        place = Path(os.environ.get("WANDB_DIR") or self._folder).expanduser()
        with _muted():
            others = self._wandb.setup().most_recent_active_run is not None
        options = self._options | {
            "dir": place,
            "resume": resume,
            "reinit": "create_new" if others else "return_previous",  # the first one is `wandb.run`, too
            "settings": self._wandb.Settings(
                silent=True,
                save_code=_may_save_code(),
                init_timeout=self._patience,
                finish_timeout=self._patience,
                finish_timeout_raises=True,
                x_file_stream_transmit_interval=_TRANSMIT_EVERY,
                x_file_stream_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
                x_graphql_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
                x_file_transfer_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
            ),
        }
        wanted: Any = effective(self._mode)
        errors, before = self._wandb.errors, set(_parts(options["id"], place))
        try:
            if wanted not in ("auto", "online"):
                return self._wandb.init(mode=wanted, **options)
            if self._wandb.run is not None:  # then W&B refuses to log in
                logged_in = not self._wandb.run.offline
            else:
                with _muted():  # where W&B says who is logged in
                    logged_in = self._wandb.login(prompt=False, verify=False)
            if logged_in:
                return self._wandb.init(mode="online", **options)  # not muted: W&B keeps what stderr shows
            trouble = "not logged in: run `wandb login`" if wanted == "online" else None
        except errors.UsageError as error:
            if not others:
                self._forget_service()  # it still holds the run's id
            raise InputError(f"W&B refuses the run: {one_line(error)}") from error
        except (errors.Error, ValueError, OSError) as error:
            trouble = one_line(error)
        if trouble:
            if not others:
                self._forget_service()
            for part in set(_parts(options["id"], place)) - before:
                shutil.rmtree(part, ignore_errors=True)
        if not may_fall_back:
            raise InputError(f"W&B's server can't be reached: {trouble or 'not logged in'}")
        if trouble:
            say(f"W&B  this run is offline: {trouble}", error=True)
        return self._wandb.init(mode="offline", **options)

    def _forget_service(self) -> None:
        """Leave W&B's service process to itself, which may wait long for its server, or be dead: the next is new."""

        def leave() -> None:
            with suppress(Exception, SystemExit):
                self._wandb.teardown()

        thread = threading.Thread(target=leave, daemon=True)
        thread.start()
        while thread.is_alive() and "WANDB_SERVICE" in os.environ:
            thread.join(0.01)
        os.environ.pop("WANDB_SERVICE", None)

    def _reopen(self, error: Exception) -> None:
        """Open the run again, whose service process has died, and log what the server lacks of the history."""
        if not self._is_ours or self._reopenings >= _REOPENINGS or not _is_of_dead_service(error):
            self._lose("rows", error)
            return
        self._reopenings += 1
        self._finalizer.detach()
        if os.environ.get("WANDB_SERVICE") == self._service:  # and not the next one, of another run
            self._forget_service()
        try:
            self._begin(may_fall_back=True, resume="allow")
            if _may_save_code():
                self._in_background(self._save_code, "code")
            for row in self._history():
                if int(row["step"]) >= self._first_step:
                    self._log_row(row)
        except Exception as again:
            self._lose("rows", again)
        else:
            say(f"W&B  opened the run again after: {one_line(error)}", error=True)

    def _revive(self) -> None:
        """Open the run again if its service process is dead: any message tells."""
        try:
            self._opened.define_metric("step", hidden=True)
        except Exception as error:
            self._reopen(error)

    def _continue(self) -> int:
        """The first step to log: what comes before it W&B's server has.

        Each time that a run is resumed W&B begins a new folder, and all is logged into it again. An offline one that
        waits to be uploaded is put aside for it. A run that was begun by others, and is continued here for the first
        time, keeps its own steps.
        """
        run = self._opened
        here = Path(run.dir).parent.resolve()
        earlier = [part for part in self._parts() if part != here]
        self._was_online = any(not part.name.startswith("offline-") or not _waits(part) for part in earlier)
        for part in filter(_waits, earlier):
            (part.parent / "superseded").mkdir(exist_ok=True)
            part.rename(part.parent / "superseded" / part.name)
        if run.offline or run.starting_step == 0:
            return 0
        if self._is_new and not self._reopenings:
            self._has_our_steps = False
            return 0
        logged = int(run.summary.get("step", -1))
        self._has_our_steps &= run.starting_step <= logged + 2  # the test may have a step of its own
        return run.starting_step if self._has_our_steps else logged + 1

    def _save_code(self) -> None:
        """The package and the program as an artifact; the commit and its diff W&B finds itself."""
        package = Path(__file__).parent.parent
        files = {f"ae/{path.relative_to(package)}": path for path in package.rglob("*.py")}
        program = getattr(sys.modules["__main__"], "__file__", None)
        if program:
            files[f"program/{Path(program).name}"] = Path(program)
        with tempfile.TemporaryDirectory() as folder:
            for name, path in files.items():
                copy = Path(folder, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            self._opened.log_code(folder, name=f"source-{self._opened.project}", include_fn=lambda path: True)
        self._missing.pop("code", None)  # of an earlier attempt

    def _log_row(self, row: Row) -> None:
        """Log a row with its pictures and histograms, or without them where W&B fails to take them."""
        step = int(row["step"])
        media: dict[str, Any] = {}
        pictures = self._pictures_of(step)
        with self._without("pictures"):
            media |= {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
        with self._without("histograms"):
            media |= self._histograms()
        try:
            self._log({**row, **media}, step)
            for name, path in pictures.items():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                self._pictures.add((f"media/images/{name}_", f"_{digest[:20]}.png"))
        except Exception as error:
            if not media:
                raise
            self._log(dict(row), step)
            self._lose("pictures", error)

    def _log_test(self, test: dict[str, Any], media: Media, at: Mapping[str, int | float]) -> None:
        """Log what the test shows, in the last row; its numbers alone where W&B fails to take the rest."""
        step = max(int(at["step"]), self._first_step)
        shown: dict[str, Any] = {}
        for name, picture in media.pictures.items():
            with self._without("test's pictures"):
                shown[f"test/{name}"] = self._wandb.Image(picture)
        for name, table in media.tables.items():
            with self._without("test's tables"):
                shown[f"test/{name}"] = self._table(name, table)
        try:
            self._log({**at, **test, **shown}, step)
            self._pictures |= {(f"media/images/test/{name}_", ".png") for name in media.pictures}
        except Exception as error:
            self._log({**at, **test}, step)
            self._lose("test's pictures and tables", error)

    def _log(self, row: dict[str, Any], step: int) -> None:
        """Log on our step, so that what is logged of one step is one row; in a run that is not ours, on its own."""
        self._opened.log(row, step=step if self._has_our_steps else None)
        self._last_step, self._first_step = step, max(self._first_step, step)

    def _pictures_of(self, step: int) -> dict[str, Path]:
        """The pictures of this step in the run's folder, by name."""
        paths = (self._folder / "pictures").glob(f"*-{step:08d}.png")
        return {path.stem.rpartition("-")[0]: path for path in paths}

    def _has_logged(self, media: set[str], numbers: Mapping[str, Any]) -> bool:
        """Whether these pictures, tables and numbers were logged and stored before; the summary has each one's last."""
        summary = self._opened.summary
        return (
            not self._lacks_test
            and media <= set(summary.keys())
            and all(summary.get(key) == value for key, value in numbers.items())
        )

    def _histograms(self) -> dict[str, Any]:
        if self._watched is None:
            return {}
        (model, what), tensors = self._watched, {}
        for name, parameter in model.named_parameters():
            if what in ("parameters", "all"):
                tensors[f"parameters/{name}"] = parameter.detach()
            if what in ("gradients", "all") and parameter.grad is not None:
                tensors[f"gradients/{name}"] = parameter.grad
        counted = {key: np.histogram(tensor.float().cpu().numpy(), bins=64) for key, tensor in tensors.items()}
        return {key: self._wandb.Histogram(np_histogram=counts_and_bins) for key, counts_and_bins in counted.items()}

    def _table(self, name: str, table: Table) -> Any:
        rows = [[self._wandb.Image(cell) if is_picture(cell) else cell for cell in row] for row in table.rows]
        shown = self._wandb.Table(columns=list(table.columns), data=rows)
        if name != _CHART:
            return shown
        fields = {column: column for column in table.columns}
        return self._wandb.plot_table("wandb/confusion_matrix/v1", shown, fields, {"title": "Confusion matrix"})

    def _look_for_what_is_missing(self) -> None:
        """Note which rows and pictures the server has not, and whether it knows that the run has ended."""
        with self._without("answers"):
            run = self._on_server()
            if self._has_our_steps and run.lastHistoryStep < self._last_step:
                self._missing["rows"] = f"after step {run.lastHistoryStep}"
            if run.state == "running":
                self._missing["end"] = "the server takes the run for running"
            there = {file.name for file in run.files()}
            has_pictures = all(
                any(name.startswith(start) and name.endswith(end) for name in there) for start, end in self._pictures
            )
            if not has_pictures or self._missing_files(there, self._parts()):
                self._missing["pictures"] = "the server has not all"

    def send_missing_files(self) -> None:
        """Upload the pictures that earlier parts of this run, or its folder, have and the server has not."""

        def send() -> None:
            run = self._on_server()
            there = {file.name for file in run.files()}
            missing = self._missing_files(there, self._parts()[:-1])
            self._lacks_test = any("test" in file.relative_to(folder).parts for folder, file in missing)
            for folder, file in missing:
                run.upload_file(str(file), root=str(folder))
            with tempfile.TemporaryDirectory() as copies:
                for name, path in self._named_by_server(run).items():
                    if name not in there:
                        copy = Path(copies, name)
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, copy)
                        run.upload_file(str(copy), root=copies)

        if self._run is not None:
            self._in_background(send, "pictures")

    def _named_by_server(self, run: Any) -> dict[str, Path]:
        """The pictures in the run's folder, by the names that the server's rows have for their files."""
        named = {}
        for row in run.history(samples=_MANY, pandas=False):
            for key, path in self._pictures_of(int(row.get("step", -1))).items():
                if isinstance(row.get(key), dict) and "path" in row[key]:
                    named[row[key]["path"]] = path
        return named

    def _on_server(self) -> Any:
        run = self._opened
        return self._wandb.Api(timeout=5).run(f"{run.entity}/{run.project}/{run.id}")

    def _parts(self) -> list[Path]:
        """Beside this one, in the folder of the run, and in that of the sweep that it may belong to."""
        here = Path(self._opened.dir).parent.parent.parent
        return _parts(self._opened.id, here, self._folder, self._folder.parent)

    @staticmethod
    def _missing_files(there: set[str], parts: Sequence[Path]) -> list[tuple[Path, Path]]:
        """Media files in W&B's folders that are not on the server, as (folder, file in it)."""
        files = [(part / "files", file) for part in parts for file in (part / "files" / "media").rglob("*.*")]
        return [(folder, file) for folder, file in files if file.relative_to(folder).as_posix() not in there]

    def _in_background(self, send: Callable[[], None], part: str = "end") -> None:
        """Send what W&B first asks its server about: that can take as long as the server likes. One after the other."""
        before = self._threads[-1:]

        def work() -> None:
            for thread in before:
                thread.join()
            with self._without(part):
                send()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    @contextmanager
    def _without(self, part: str) -> Iterator[None]:
        """Inside, W&B may fail: the run goes on without this part."""
        try:
            yield
        except Exception as error:
            self._lose(part, error)

    def _lose(self, part: str, error: Exception) -> None:
        """Note that W&B has not got a part, and say so the first time."""
        if part not in self._missing:
            say(f"W&B  in trouble, the run goes on without {part}: {one_line(error)}", error=True)
        self._missing[part] = one_line(error)


@contextmanager
def _muted() -> Iterator[None]:
    """Inside, W&B prints nothing to stderr; other threads do.

    A thread that is left to itself may come out of this long after somebody else has replaced stderr, which then stays.
    """
    before, mute = sys.stderr, _Mute()
    sys.stderr = mute
    try:
        yield
    finally:
        if sys.stderr is mute:
            sys.stderr = before


class _Mute(io.TextIOBase):
    """In the place of stderr: nothing that this thread writes is shown, and all that others do."""

    def __init__(self) -> None:
        self._thread, self._shown = threading.get_ident(), sys.stderr

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._shown.write(text)


def _is_of_dead_service(error: Exception) -> bool:
    """Whether W&B's service process can't be reached; one of the exceptions that say so is private."""
    return isinstance(error, ConnectionError) or type(error).__name__ == "WandbServiceConnectionError"


def _resume(is_new: bool) -> str:
    """Whether W&B may continue a run of this id: a new one must not be mixed with another that it has, unless asked."""
    if not is_new:
        return "allow"
    wanted = os.environ.get("WANDB_RESUME", "auto")
    if wanted != "auto":
        return wanted
    return "never" if "WANDB_RUN_ID" in os.environ and "WANDB_SWEEP_ID" not in os.environ else "allow"


def _abandonable(begin: "Callable[[], wandb.Run]") -> "wandb.Run":
    """Open a run in a thread, so that Ctrl-C and SIGTERM are not kept waiting for W&B; it is then left to itself."""
    opened: Future[wandb.Run] = Future()
    is_abandoned = threading.Event()

    def work() -> None:
        try:
            run = begin()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(run)
        if is_abandoned.is_set():
            run.finish(exit_code=1)

    threading.Thread(target=work, daemon=True).start()
    try:
        return opened.result()
    except (KeyboardInterrupt, SystemExit):
        is_abandoned.set()
        hurry()
        raise


def _finish_forgotten(run: "wandb.Run") -> None:
    """End a run whose `Run` is gone and was not finished; in a thread, since this happens in the midst of anything."""

    def finish() -> None:
        _ours.discard(run)
        with suppress(Exception), _muted():
            run.finish()

    threading.Thread(target=finish, daemon=True).start()


def _parts(run_id: str, *folders: Path) -> list[Path]:
    """W&B's folders of this run, one for each time that it was begun or resumed, in that order."""
    form = re.compile(rf"(?:offline-)?run-(\d+_\d+)-{re.escape(run_id)}(?:-(\d+))?")  # a number within one second
    places = dict.fromkeys(folder.resolve() / "wandb" for folder in folders)
    named = [(form.fullmatch(part.name), part) for place in places for part in place.glob("*")]
    return [part for _, _, part in sorted((name[1], int(name[2] or 0), part) for name, part in named if name)]


def _waits(part: Path) -> bool:
    """Whether it was tracked offline and has not been uploaded."""
    return part.name.startswith("offline-") and not list(part.glob("*.wandb.synced"))
