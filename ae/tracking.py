"""Weights & Biases: the one module that imports wandb. What W&B raises, refuses or fails to do never reaches a run."""

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ae.errors import InputError
from ae.evidence import Evidence, Table
from ae.pictures import is_picture

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
Watch = Literal["gradients", "parameters", "all"]

_TRANSMIT_EVERY = 5  # seconds between uploads of rows
_RETRY_AT_LEAST_EVERY = 4  # seconds, while the server fails
_FIRST_STEP = "first-step.txt"
_VARIABLES = {"project": "WANDB_PROJECT", "job_type": "WANDB_JOB_TYPE", "name": "WANDB_NAME"}


def new_run_id() -> str:
    """A new id, or the one that a sweep's agent has chosen."""
    return os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)


class Tracker:
    """One run in W&B: the one that is open already, or its own, online if it can be, else offline.

    W&B's own step is the training step, and a step is logged once: so a resumed run, which was logged up to `logged`,
    may log everything again, and W&B takes what it has not got. `options` are those of `wandb.init`; one that is None
    is left to W&B's environment variable, and without that to `defaults`. Raises InputError where W&B refuses them.
    """

    def __init__(
        self, mode: Mode, folder: Path, patience: float, logged: int, defaults: Mapping[str, str], **options: Any
    ) -> None:
        import wandb

        self._wandb = wandb
        self._folder, self._patience = folder, patience
        self._trouble: str | None = None
        self._threads: list[threading.Thread] = []
        self._last_step = -1
        self._is_ours = wandb.run is None
        if wandb.run is not None:
            self._run = wandb.run
            self._run.config.update(options["config"], allow_val_change=True)
        else:
            for key, value in defaults.items():
                if options.get(key) is None and not os.environ.get(_VARIABLES[key]):
                    options[key] = value
            self._run = self._open(mode, folder, options)
        self._first_step = self._continue(logged) if self._is_ours else 0
        with self._harmless():
            for key in ("step", "epoch"):
                self._run.define_metric(key, hidden=True)
            for key in ("train/*", "val/*", "test/*", "reconstructions"):
                self._run.define_metric(key, step_metric="step")
        self._in_background(self._save_code)

    def log(self, row: dict[str, Any], pictures: Mapping[str, Path]) -> None:
        """Log metrics by their keys, `step` and `epoch` among them, and pictures; not what W&B has already."""
        step = int(row["step"])
        if self._trouble or (self._is_ours and step < self._first_step):
            return
        with self._harmless():
            media = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
            self._log({**row, **media}, step)

    def watch(self, model: nn.Module, what: Watch, every: int) -> None:
        """Log histograms of the model's gradients or parameters at every so many steps."""
        with self._harmless():
            self._run.watch(model, log=what, log_freq=every)

    def summarise(
        self,
        summary: dict[str, Any],
        evidence: Evidence,
        at: Mapping[str, int | float],
        weights: Mapping[str, Path],
        metadata: dict[str, Any],
    ) -> None:
        """Set the run's final numbers, log what the test shows, and save weights {alias: file} as one artifact."""

        def send() -> None:
            test = {key: value for key, value in summary.items() if key.startswith("test/") and key.count("/") == 1}
            pictures = {f"test/{name}": self._wandb.Image(picture) for name, picture in evidence.pictures.items()}
            tables = {f"test/{name}": self._table(name, table) for name, table in evidence.tables.items()}
            self._log({**at, **test, **pictures, **tables}, max(int(at["step"]), self._first_step))
            self._run.summary.update(summary)
            for alias, path in weights.items():
                artifact = self._wandb.Artifact(f"model-{self._run.id}", "model", metadata=metadata)
                artifact.add_file(str(path), name="model.safetensors", policy="immutable", skip_cache=True)
                self._run.log_artifact(artifact, aliases=[alias])

        if not self._trouble:
            self._in_background(send)

    def finish(self, exit_code: int) -> str:
        """End the run in W&B; returns the line that says where it is, and how to upload what is not there."""
        folder, online = Path(self._run.dir).parent, not self._run.offline
        deadline = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._trouble = "the server does not answer"
        if not self._is_ours:
            return f"W&B  {folder} (left open)"
        look = f"look with `wandb leet {folder}`"
        url = self._run.url if online else None
        try:
            with redirect_stderr(io.StringIO()):  # what W&B says at length is said in one line below
                self._run.finish(exit_code=exit_code)
        except Exception as error:
            self._trouble = _one_line(error)
        if not online:
            return f"W&B  offline: {look}, upload with `wandb sync {folder}`"
        if self._trouble or not self._has_arrived():
            upload = f"python -m ae.upload --run {shlex.quote(str(self._folder))}"
            return f"W&B  not all has reached the server: {look}, upload with `{upload}`"
        return f"W&B  {url}"

    def _open(self, mode: Mode, folder: Path, options: dict[str, Any]) -> "wandb.Run":
        options |= {
            "dir": os.environ.get("WANDB_DIR") or folder,
            "resume": "allow",
            "settings": self._wandb.Settings(
                silent=True,
                init_timeout=self._patience,
                finish_timeout=self._patience,
                finish_timeout_raises=True,
                x_file_stream_transmit_interval=_TRANSMIT_EVERY,
                x_file_stream_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
                x_graphql_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
                x_file_transfer_retry_wait_max_seconds=_RETRY_AT_LEAST_EVERY,
            ),
        }
        wanted: Any = os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode
        errors, before = self._wandb.errors, set(_parts(folder, options["id"]))
        try:
            if wanted not in ("auto", "online"):
                return self._wandb.init(mode=wanted, **options)
            with redirect_stderr(io.StringIO()):  # where W&B says who is logged in
                logged_in = self._wandb.login(prompt=False, verify=False)
            if logged_in:
                return self._wandb.init(mode="online", **options)
            trouble = "not logged in" if wanted == "online" else None
        except errors.UsageError as error:
            raise InputError(f"W&B refuses the run: {_one_line(error)}") from error
        except (errors.Error, ValueError, OSError) as error:
            trouble = _one_line(error)
        if trouble:
            print(f"W&B  this run is offline: {trouble}", file=sys.stderr, flush=True)
            self._wandb.teardown()  # W&B's service process still holds the run's id
            for part in set(_parts(folder, options["id"])) - before:
                shutil.rmtree(part)
        return self._wandb.init(mode="offline", **options)

    def _continue(self, logged: int) -> int:
        """The first step to log: what comes before it W&B has, or gets from an earlier part of this run.

        Each time that a run is resumed W&B begins a new folder. An offline one that waits to be uploaded is put aside:
        the new one holds all of it again.
        """
        here = Path(self._run.dir).parent
        earlier = [part for part in _parts(here.parent.parent, self._run.id) if part != here]
        waiting = [part for part in earlier if _waits(part)]
        if not self._run.offline:
            first = self._run.starting_step
        elif earlier and earlier[-1] not in waiting:
            first = logged + 1
        else:
            first = int((earlier[-1] / _FIRST_STEP).read_text()) if earlier else 0
        for part in waiting:
            (here.parent / "superseded").mkdir(exist_ok=True)
            part.rename(here.parent / "superseded" / part.name)
        (here / _FIRST_STEP).write_text(str(first))
        return first

    def _save_code(self) -> None:
        """The package and the program as an artifact; the commit and its diff W&B finds itself."""
        package = Path(__file__).parent
        files = {f"ae/{path.relative_to(package)}": path for path in package.rglob("*.py")}
        program = getattr(sys.modules["__main__"], "__file__", None)
        if program:
            files[f"program/{Path(program).name}"] = Path(program)
        with tempfile.TemporaryDirectory() as folder:
            for name, path in files.items():
                copy = Path(folder, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            self._run.log_code(folder, name=f"source-{self._run.project}", include_fn=lambda path: True)

    def _log(self, row: dict[str, Any], step: int) -> None:
        """Log on our step, so that what is logged of one step is one row; in a run that is not ours, on its own."""
        self._run.log(row, step=step if self._is_ours else None)
        self._last_step = step

    def _table(self, name: str, table: Table) -> Any:
        rows = [[self._wandb.Image(cell) if is_picture(cell) else cell for cell in row] for row in table.rows]
        shown = self._wandb.Table(columns=list(table.columns), data=rows)
        if name != "confusion":
            return shown
        fields = {column: column for column in table.columns}
        return self._wandb.plot_table("wandb/confusion_matrix/v1", shown, fields, {"title": "Confusion matrix"})

    def _has_arrived(self) -> bool:
        """Whether the server has the last row and knows that the run has ended."""
        arrived = False
        with self._harmless():
            run = self._wandb.Api(timeout=5).run(f"{self._run.entity}/{self._run.project}/{self._run.id}")
            arrived = run.lastHistoryStep >= self._last_step and run.state != "running"
        return arrived

    def _in_background(self, send: Callable[[], None]) -> None:
        """Send what W&B first asks its server about: that can take as long as the server likes."""

        def work() -> None:
            with self._harmless():
                send()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Inside, W&B may fail: that is said in a line, and W&B is left alone from then on."""
        try:
            yield
        except Exception as error:
            self._trouble = _one_line(error)
            print(f"W&B  in trouble, the run goes on without: {self._trouble}", file=sys.stderr, flush=True)


def _parts(folder: Path, run_id: str) -> list[Path]:
    """W&B's folders of this run, one for each time that it was begun or resumed, in that order."""
    form = re.compile(rf"(?:offline-)?run-(\d+_\d+)-{re.escape(run_id)}(?:-(\d+))?")  # a number within one second
    named = [(form.fullmatch(part.name), part) for part in (folder / "wandb").glob("*")]
    return [part for _, _, part in sorted((name[1], int(name[2] or 0), part) for name, part in named if name)]


def _waits(part: Path) -> bool:
    """Whether it was tracked offline and has not been uploaded."""
    return part.name.startswith("offline-") and not list(part.glob("*.wandb.synced"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
