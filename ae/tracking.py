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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from ae.errors import InputError, one_line
from ae.evidence import Evidence, Table
from ae.pictures import is_picture

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
Watch = Literal["gradients", "parameters", "all"]

_TRANSMIT_EVERY = 5  # seconds between uploads of rows
_CHART = "confusion"  # the table that W&B shows as a chart, and keeps as NAME_table
_RETRY_AT_LEAST_EVERY = 4  # seconds, while the server fails
_VARIABLES = {"project": "WANDB_PROJECT", "job_type": "WANDB_JOB_TYPE", "name": "WANDB_NAME"}


def _may_save_code() -> bool:
    """Whether the user has not forbidden it by W&B's variables."""
    wanted, unwanted = os.environ.get("WANDB_SAVE_CODE", "true"), os.environ.get("WANDB_DISABLE_CODE", "false")
    return wanted.lower() not in ("false", "0") and unwanted.lower() not in ("true", "1")


def effective(mode: Mode) -> str:
    """The mode that holds: `auto` leaves it to W&B's variable."""
    return os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode


def new_run_id() -> str:
    """A new id, or the one that a sweep's agent has chosen, or that of the W&B run that is open."""
    opened = getattr(sys.modules.get("wandb"), "run", None)
    if opened is not None:
        return opened.id
    return os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)


class Tracker:
    """One run in W&B: the one that is open already, or its own, online if it can be, else offline.

    W&B's own step is the training step, and a step is logged once: so a resumed run, which was logged up to `logged`,
    may log everything again, and W&B takes what it has not got. `options` are those of `wandb.init`; one that is None
    is left to W&B's environment variable, and without that to `defaults`. Raises InputError where W&B refuses them.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        patience: float,
        logged: int,
        defaults: Mapping[str, str],
        may_fall_back: bool = True,
        **options: Any,
    ) -> None:
        import wandb

        self._wandb = wandb
        self._folder, self._patience = folder, patience
        self._trouble: str | None = None
        self._threads: list[threading.Thread] = []
        self._watched: tuple[nn.Module, Watch] | None = None
        self._was_online = False
        self._lacks_test = False  # whether the server has not all that an earlier part showed of the test
        self._last_step = -1
        self._is_ours = wandb.run is None
        if wandb.run is not None:
            self._run = wandb.run
            self._run.config.update(options["config"], allow_val_change=True)
        else:
            for key, value in defaults.items():
                if options.get(key) is None and not os.environ.get(_VARIABLES[key]):
                    options[key] = value
            self._run = self._open(mode, folder, options, may_fall_back)
        self._first_step = self._continue() if self._is_ours else logged + 1
        with self._harmless():
            for key in ("step", "epoch"):
                self._run.define_metric(key, hidden=True)
            for key in ("train/*", "val/*", "test/*", "reconstructions"):
                self._run.define_metric(key, step_metric="step")
        if _may_save_code():
            self._in_background(self._save_code)

    def log(self, row: dict[str, Any], pictures: Mapping[str, Path]) -> None:
        """Log metrics by their keys, `step` and `epoch` among them, and pictures; not what W&B has already."""
        step = int(row["step"])
        if self._trouble or step < self._first_step:
            return
        with self._harmless():
            media = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
            self._log({**row, **media, **self._histograms()}, step)

    def watch(self, model: nn.Module, what: Watch) -> None:
        """Add histograms of the model's gradients or parameters to every row that is logged from now on."""
        self._watched = model, what

    def summarise(
        self,
        summary: dict[str, Any],
        evidence: Evidence,
        at: Mapping[str, int | float],
        weights: Sequence[tuple[Sequence[str], Path, dict[str, Any]]],
    ) -> None:
        """Set the run's final numbers, log what the test shows, and save weights (aliases, file, metadata)."""

        def send() -> None:
            test = {key: value for key, value in summary.items() if key.startswith("test/") and key.count("/") == 1}
            shown = [name if name != _CHART else f"{name}_table" for name in (*evidence.pictures, *evidence.tables)]
            if not self._has_logged({f"test/{name}" for name in shown}, test):
                pictures = {f"test/{name}": self._wandb.Image(picture) for name, picture in evidence.pictures.items()}
                tables = {f"test/{name}": self._table(name, table) for name, table in evidence.tables.items()}
                self._log({**at, **test, **pictures, **tables}, max(int(at["step"]), self._first_step))
            self._run.summary.update(summary)
            for aliases, path, metadata in weights:
                artifact = self._wandb.Artifact(f"model-{self._run.id}", "model", metadata=metadata)
                artifact.add_file(str(path), name="model.safetensors", policy="immutable", skip_cache=True)
                self._run.log_artifact(artifact, aliases=list(aliases))

        if not self._trouble:
            self._in_background(send)

    def finish(self, exit_code: int) -> str:
        """End the run in W&B; returns the line that says where it is, and how to upload what is not there."""
        part, online = Path(self._run.dir).parent, not self._run.offline
        deadline = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._trouble = "the server does not answer"
        look = f"look with `wandb leet {shlex.quote(str(part))}`"
        upload = f"upload with `python -m ae.upload --run {shlex.quote(str(self._folder))}`"
        if not self._is_ours:
            return f"W&B  {part} (left open)" + (f", in trouble: {upload}" if self._trouble else "")
        url = self._run.url if online else None
        try:
            with redirect_stderr(io.StringIO()):  # what W&B says at length is said in one line below
                self._run.finish(exit_code=exit_code)
        except Exception as error:
            self._trouble = one_line(error)
        if not online and not self._trouble and not self._was_online:
            return f"W&B  offline: {look}, upload with `wandb sync {shlex.quote(str(part))}`"
        if not online:
            return f"W&B  offline: {look}, {upload}"
        if self._trouble or not self._has_arrived():
            return f"W&B  not all has reached the server: {look}, {upload}"
        return f"W&B  {url}"

    def _open(self, mode: Mode, folder: Path, options: dict[str, Any], may_fall_back: bool) -> "wandb.Run":
        place = Path(os.environ.get("WANDB_DIR") or folder)
        options |= {
            "dir": place,
            "resume": "allow",
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
        wanted: Any = effective(mode)
        errors, before = self._wandb.errors, set(_parts(options["id"], place))
        try:
            if wanted not in ("auto", "online"):
                return self._wandb.init(mode=wanted, **options)
            with redirect_stderr(io.StringIO()):  # where W&B says who is logged in
                logged_in = self._wandb.login(prompt=False, verify=False)
            if logged_in:
                return self._wandb.init(mode="online", **options)
            trouble = "not logged in: run `wandb login`" if wanted == "online" else None
        except errors.UsageError as error:
            raise InputError(f"W&B refuses the run: {one_line(error)}") from error
        except (errors.Error, ValueError, OSError) as error:
            trouble = one_line(error)
        if trouble:
            self._wandb.teardown()  # W&B's service process still holds the run's id
            for part in set(_parts(options["id"], place)) - before:
                shutil.rmtree(part)
        if not may_fall_back:
            raise InputError(f"W&B's server can't be reached: {trouble or 'not logged in'}")
        if trouble:
            print(f"W&B  this run is offline: {trouble}", file=sys.stderr, flush=True)
        return self._wandb.init(mode="offline", **options)

    def _continue(self) -> int:
        """The first step to log: what comes before it W&B's server has.

        Each time that a run is resumed W&B begins a new folder, and all is logged into it again. An offline one that
        waits to be uploaded is put aside for it.
        """
        here = Path(self._run.dir).parent.resolve()
        earlier = [part for part in self._parts() if part != here]
        self._was_online = any(not part.name.startswith("offline-") or not _waits(part) for part in earlier)
        for part in filter(_waits, earlier):
            (part.parent / "superseded").mkdir(exist_ok=True)
            part.rename(part.parent / "superseded" / part.name)
        return 0 if self._run.offline else self._run.starting_step

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

    def _has_logged(self, media: set[str], numbers: Mapping[str, Any]) -> bool:
        """Whether these pictures, tables and numbers were logged and stored before; the summary has each one's last."""
        summary = self._run.summary
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

    def _has_arrived(self) -> bool:
        """Whether the server has the last row and every picture, and knows that the run has ended."""
        arrived = False
        with self._harmless():
            run = self._on_server()
            has_rows = run.lastHistoryStep >= self._last_step and run.state != "running"
            arrived = has_rows and not self._missing_files(run, self._parts())
        return arrived

    def send_missing_files(self) -> None:
        """Upload the pictures that earlier parts of this run have and the server has not."""

        def send() -> None:
            run = self._on_server()
            missing = self._missing_files(run, self._parts()[:-1])
            self._lacks_test = any("test" in file.relative_to(folder).parts for folder, file in missing)
            for folder, file in missing:
                run.upload_file(str(file), root=str(folder))

        self._in_background(send)

    def _on_server(self) -> Any:
        return self._wandb.Api(timeout=5).run(f"{self._run.entity}/{self._run.project}/{self._run.id}")

    def _parts(self) -> list[Path]:
        """Beside this one, in the folder of the run, and in that of the sweep that it may belong to."""
        here = Path(self._run.dir).parent.parent.parent
        return _parts(self._run.id, here, self._folder, self._folder.parent)

    @staticmethod
    def _missing_files(run: Any, parts: Sequence[Path]) -> list[tuple[Path, Path]]:
        """What W&B's folders hold of media and the server does not: (folder, file in it)."""
        there = {file.name for file in run.files()}
        files = [(part / "files", file) for part in parts for file in (part / "files" / "media").rglob("*.*")]
        return [(folder, file) for folder, file in files if file.relative_to(folder).as_posix() not in there]

    def _in_background(self, send: Callable[[], None]) -> None:
        """Send what W&B first asks its server about: that can take as long as the server likes. One after the other."""
        before = self._threads[-1:]

        def work() -> None:
            for thread in before:
                thread.join()
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
            self._trouble = one_line(error)
            print(f"W&B  in trouble, the run goes on without: {self._trouble}", file=sys.stderr, flush=True)


def _parts(run_id: str, *folders: Path) -> list[Path]:
    """W&B's folders of this run, one for each time that it was begun or resumed, in that order."""
    form = re.compile(rf"(?:offline-)?run-(\d+_\d+)-{re.escape(run_id)}(?:-(\d+))?")  # a number within one second
    places = dict.fromkeys(folder.resolve() / "wandb" for folder in folders)
    named = [(form.fullmatch(part.name), part) for place in places for part in place.glob("*")]
    return [part for _, _, part in sorted((name[1], int(name[2] or 0), part) for name, part in named if name)]


def _waits(part: Path) -> bool:
    """Whether it was tracked offline and has not been uploaded."""
    return part.name.startswith("offline-") and not list(part.glob("*.wandb.synced"))
