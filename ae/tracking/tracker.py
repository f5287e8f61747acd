"""Track a run in Weights & Biases. Errors of W&B never reach the run that is tracked."""

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ae.tracking.connection import (
    Connection,
    Mode,
    abandon_service,
    is_dead_service,
    may_save_code,
    muted_stderr,
    resume_mode,
    users_run,
)
from ae.tracking.failures import Background, Failures
from ae.tracking.folders import is_unsynced, run_folders, set_aside
from ae.tracking.media import Media
from ae.tracking.options import MAX_LENGTH, VARIABLES
from ae.tracking.row_log import Row, RowLog
from ae.tracking.uploads import check_upload, upload_missing_files
from ae.tracking.wandb_types import Watch, log_source, log_weights
from ae.utils.console import say
from ae.utils.errors import InputError, one_line

if TYPE_CHECKING:
    import wandb

_MAX_REOPENINGS = 3  # of a run whose service process dies


class Tracker:
    """A run in W&B: the run that the user has open, or our own run, online where possible, else offline.

    W&B's step is the training step, and W&B ignores a step that it already has: a resumed run may log all rows again.
    A failure of W&B loses the part of the run that failed; `finish` lists the lost parts. A run whose service process
    dies is opened again. `options` are those of `wandb.init`; None leaves an option to W&B's environment variable,
    then to `defaults`. `history` returns the rows logged so far. Raises InputError where W&B refuses the options.
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
        self._folder, self._patience, self._pid = folder, patience, os.getpid()
        self._history, self._is_new, self._reopenings = history, is_new, 0
        self._was_online = False  # whether an earlier start of the run has rows on the server
        self._failures = Failures()
        self._background = Background(self._failures)
        for key, value in defaults.items():
            if options.get(key) is None and not os.environ.get(VARIABLES[key]):
                options[key] = value.encode(errors="replace").decode()[:MAX_LENGTH]
        self._connection = Connection(mode, folder, patience, options)
        self._run: wandb.Run | None = users_run()
        self._is_ours = self._run is None
        self._rows = RowLog(folder, self._failures, has_our_steps=self._is_ours)
        if self._run is not None:
            self._rows.attach(self._run, int(max((row["step"] for row in history()), default=-1)) + 1)
            self.update_config(options["config"])
            self._define_axes()
        else:
            try:
                self._open_in_live_service(may_fall_back, resume_mode(is_new))
            except InputError:
                raise
            except Exception as error:  # W&B's service does not start, or W&B can't write in its folder
                say(f"W&B  this run is not tracked: {one_line(error)}", error=True)
        if self._run is not None:
            self._save_source()

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Set the run's configuration."""
        if self._run is not None:
            with self._failures.tolerated("configuration"):
                self._run.config.update(config, allow_val_change=True)

    def log(self, row: Row) -> None:
        """Log metrics by their keys, `step` and `epoch` among them, and the pictures of this step in the run's folder.

        Rows that W&B already has are skipped. A forked process logs nothing.
        """
        if self._run is None or int(row["step"]) < self._rows.first_step or os.getpid() != self._pid:
            return
        try:
            self._rows.log(row)
        except Exception as error:
            self._reopen(error)

    def watch(self, model: nn.Module, what: Watch) -> None:
        """Add histograms of the model's gradients or parameters to every row that is logged from now on."""
        self._rows.watched = model, what

    def summarise(
        self,
        summary: dict[str, Any],
        media: Media,
        at: Mapping[str, int | float],
        weights: Sequence[tuple[Sequence[str], Path, dict[str, Any]]],
    ) -> None:
        """Set the run's summary, log test metrics and media, and save weights (aliases, file, metadata)."""

        def send() -> None:
            self._check_service()
            with self._failures.tolerated("test"):
                self._rows.log_test(summary, media, at)
            with self._failures.tolerated("summary"):
                self._open_run.summary.update(summary)
            for aliases, path, metadata in weights:
                with self._failures.tolerated("weights"):
                    log_weights(self._open_run, path, aliases, metadata)

        if self._run is not None:
            self._background.start(send, "end")

    def send_missing_files(self) -> None:
        """Upload pictures of the run's folder, and media of its earlier starts, that the server lacks."""

        def send() -> None:
            upload_missing_files(self._open_run, self._rows, self._run_folders()[:-1], self._folder)

        if self._run is not None:
            self._background.start(send, "pictures")

    def finish(self, exit_code: int) -> str:
        """Finish the run in W&B; return a line with the run's address, and the command that uploads missing parts."""
        upload = f"upload with `python -m ae.upload --run {shlex.quote(str(self._folder))}`"
        failures = self._failures
        self._background.join(time.monotonic() + self._patience)
        if self._run is None:
            return f"W&B  {failures or 'this run is not tracked'}: {upload}"
        run, wandb_folder = self._run, Path(self._run.dir).parent
        is_online = not run.offline
        view = f"view with `wandb leet {shlex.quote(str(wandb_folder))}`"
        if not self._is_ours:
            return f"W&B  {wandb_folder} (left open)" + (f", {failures}: {upload}" if failures else "")
        url = run.url if is_online else None
        try:
            with muted_stderr():  # one line below replaces W&B's long text
                run.finish(exit_code=exit_code)
        except Exception as error:
            failures.reasons["end"] = one_line(error)
        self._connection.close(run)
        if not is_online and not failures and not self._was_online:
            return f"W&B  offline: {view}, upload with `wandb sync {shlex.quote(str(wandb_folder))}`"
        if not is_online:
            return f"W&B  offline{f', {failures}' if failures else ''}: {view}, {upload}"
        if "answers" not in failures.reasons:
            with failures.tolerated("answers"):
                check_upload(run, self._rows, self._run_folders(), failures)
        if failures:
            return f"W&B  incomplete on the server, {failures}: {view}, {upload}"
        return f"W&B  {url}"

    @property
    def _open_run(self) -> "wandb.Run":
        assert self._run is not None
        return self._run

    def _open_in_live_service(self, may_fall_back: bool, resume: str) -> None:
        """Open our own run; in a new service process where the process of an earlier run is dead."""
        try:
            self._open(may_fall_back, resume)
        except Exception as error:
            if not is_dead_service(error):
                raise
            abandon_service()
            self._open(may_fall_back, resume)

    def _open(self, may_fall_back: bool, resume: str) -> None:
        """Open our own run, and set the first step to log.

        W&B makes a new folder at every resume, into which all rows are logged again. Earlier folders that wait for
        their upload are set aside.
        """
        run = self._run = self._connection.open(may_fall_back, resume)
        present = Path(run.dir).parent.resolve()
        earlier = [folder for folder in self._run_folders() if folder != present]
        self._was_online = any(not is_unsynced(folder) for folder in earlier)
        for folder in filter(is_unsynced, earlier):
            set_aside(folder)
        self._rows.resume(run, is_first_opening=self._is_new and not self._reopenings)
        self._define_axes()

    def _define_axes(self) -> None:
        with self._failures.tolerated("axes"):
            for key in ("step", "epoch"):
                self._open_run.define_metric(key, hidden=True)
            for key in ("train/*", "val/*", "test/*", "reconstructions"):
                self._open_run.define_metric(key, step_metric="step")

    def _save_source(self) -> None:
        def save() -> None:
            log_source(self._open_run)
            self._failures.reasons.pop("code", None)  # of an earlier attempt

        if may_save_code():
            self._background.start(save, "code")

    def _check_service(self) -> None:
        """Open the run again if its service process is dead: any message to a dead process fails."""
        try:
            self._open_run.define_metric("step", hidden=True)
        except Exception as error:
            self._reopen(error)

    def _reopen(self, error: Exception) -> None:
        """Open the run again where its service process has died, and log the rows that the server lacks."""
        if not self._is_ours or self._reopenings >= _MAX_REOPENINGS or not is_dead_service(error):
            self._failures.record("rows", error)
            return
        self._reopenings += 1
        self._connection.abandon_service()
        try:
            self._open(may_fall_back=True, resume="allow")
            self._save_source()
            for row in self._history():
                if int(row["step"]) >= self._rows.first_step:
                    self._rows.log(row)
        except Exception as reopening_error:
            self._failures.record("rows", reopening_error)
        else:
            say(f"W&B  reopened the run after: {one_line(error)}", error=True)

    def _run_folders(self) -> list[Path]:
        """W&B's folders of this run: beside its present folder, in the run's folder, and in that of its sweep."""
        present = Path(self._open_run.dir).parent.parent.parent
        return run_folders(self._open_run.id, present, self._folder, self._folder.parent)
