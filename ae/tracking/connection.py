"""Open a run in W&B: online where possible, else offline, without a prompt and without a wait at Ctrl-C."""

import io
import os
import secrets
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ae.tracking.folders import run_folders
from ae.tracking.options import is_true, use_writable_folders
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.signals import hurry

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]

_TRANSMIT_EVERY = 5  # seconds between uploads of rows
_MAX_RETRY_WAIT = 4  # seconds between attempts while the server fails
_FORMER_MODES = {"run": "online", "dryrun": "offline"}

_own_runs: "weakref.WeakSet[wandb.Run]" = weakref.WeakSet()  # unfinished runs that we opened, and not the user


def effective(mode: Mode) -> str:
    """Resolve `auto` by W&B's environment variables; it stays `auto` where they are not set."""
    if mode != "auto":
        return mode
    variable = os.environ.get("WANDB_MODE") or ("disabled" if is_true("WANDB_DISABLED") else mode)
    return _FORMER_MODES.get(variable, variable)


def may_save_code() -> bool:
    """Whether W&B's environment variables allow to save source code."""
    return is_true("WANDB_SAVE_CODE", default=True) and not is_true("WANDB_DISABLE_CODE")


def users_run() -> "wandb.Run | None":
    """The W&B run that the user has open; not an unfinished run of a `Tracker`."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return None if run is None or run in _own_runs else run


def new_run_id() -> str:
    """The id of the user's open W&B run, else WANDB_RUN_ID (of the user or a sweep's agent), else a random id.

    Raises InputError where WANDB_RUN_ID is the id of a run that is open.
    """
    run = users_run()
    if run is not None:
        return run.id
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id and any(run.id == run_id for run in _own_runs):
        raise InputError(f"WANDB_RUN_ID={run_id} is the id of a run that is open: finish that run, or unset it")
    return run_id or secrets.token_hex(4)


def resume_mode(is_new: bool) -> str:
    """W&B's `resume`: a new run with an id of the user's choice must not extend an existing run, unless asked."""
    if not is_new:
        return "allow"
    variable = os.environ.get("WANDB_RESUME", "auto")
    if variable != "auto":
        return variable
    return "never" if "WANDB_RUN_ID" in os.environ and "WANDB_SWEEP_ID" not in os.environ else "allow"


class Connection:
    """The `wandb.Run` that we opened, in W&B's service process. `options` are those of `wandb.init`.

    A run is finished when its `Connection` is garbage-collected. W&B itself finishes it at the exit of the process.
    """

    def __init__(self, mode: Mode, folder: Path, patience: float, options: Mapping[str, Any]) -> None:
        self._mode, self._folder, self._patience, self._options = mode, folder, patience, options

    def open(self, may_fall_back: bool, resume: str) -> "wandb.Run":
        """Open the run; Ctrl-C and SIGTERM are not delayed by W&B.

        Raises InputError where W&B refuses the options, or, unless `may_fall_back`, where the run would be offline.
        """
        use_writable_folders()
        run = _open_in_thread(lambda: self._init(may_fall_back, resume))
        _own_runs.add(run)
        self._service = os.environ.get("WANDB_SERVICE")
        self._finalizer = weakref.finalize(self, _finish_in_thread, run)
        self._finalizer.atexit = False  # W&B does that itself
        return run

    def close(self, run: "wandb.Run") -> None:
        """Forget a run that is finished."""
        _own_runs.discard(run)
        self._finalizer.detach()

    def abandon_service(self) -> None:
        """Forget the run's service process, which has died, but not the service process of a later run."""
        self._finalizer.detach()
        if os.environ.get("WANDB_SERVICE") == self._service:
            abandon_service()

    def _init(self, may_fall_back: bool, resume: str) -> "wandb.Run":
        import wandb

        parent = Path(os.environ.get("WANDB_DIR") or self._folder).expanduser()
        with muted_stderr():
            has_active_runs = wandb.setup().most_recent_active_run is not None
        options: dict[str, Any] = {
            **self._options,
            "dir": parent,
            "resume": resume,
            "reinit": "create_new" if has_active_runs else "return_previous",  # the first run is `wandb.run`, too
            "settings": self._settings(),
        }
        mode: Any = effective(self._mode)
        earlier_folders = set(run_folders(options["id"], parent))
        try:
            if mode not in ("auto", "online"):
                return wandb.init(mode=mode, **options)
            if wandb.run is not None:  # then W&B refuses to log in
                is_logged_in = not wandb.run.offline
            else:
                with muted_stderr():  # where W&B says who is logged in
                    is_logged_in = wandb.login(prompt=False, verify=False)
            if is_logged_in:
                return wandb.init(mode="online", **options)  # not muted: W&B keeps what stderr shows
            reason = "not logged in: run `wandb login`" if mode == "online" else None
        except wandb.errors.UsageError as error:
            if not has_active_runs:
                abandon_service()  # it still holds the run's id
            raise InputError(f"W&B refuses the run: {one_line(error)}") from error
        except (wandb.errors.Error, ValueError, OSError) as error:
            reason = one_line(error)
        if reason:
            if not has_active_runs:
                abandon_service()
            for folder in set(run_folders(options["id"], parent)) - earlier_folders:
                shutil.rmtree(folder, ignore_errors=True)
        if not may_fall_back:
            raise InputError(f"W&B's server can't be reached: {reason or 'not logged in'}")
        if reason:
            say(f"W&B  this run is offline: {reason}", error=True)
        return wandb.init(mode="offline", **options)

    def _settings(self) -> "wandb.Settings":
        import wandb

        return wandb.Settings(
            silent=True,
            save_code=may_save_code(),
            init_timeout=self._patience,
            finish_timeout=self._patience,
            finish_timeout_raises=True,
            x_file_stream_transmit_interval=_TRANSMIT_EVERY,
            x_file_stream_retry_wait_max_seconds=_MAX_RETRY_WAIT,
            x_graphql_retry_wait_max_seconds=_MAX_RETRY_WAIT,
            x_file_transfer_retry_wait_max_seconds=_MAX_RETRY_WAIT,
        )


def abandon_service() -> None:
    """Let W&B start a new service process: the present process is dead, or may wait long for its server."""
    import wandb

    def teardown() -> None:
        with suppress(Exception, SystemExit):
            wandb.teardown()

    thread = threading.Thread(target=teardown, daemon=True)
    thread.start()
    while thread.is_alive() and "WANDB_SERVICE" in os.environ:
        thread.join(0.01)
    os.environ.pop("WANDB_SERVICE", None)


def is_dead_service(error: Exception) -> bool:
    """Whether W&B's service process can't be reached; `WandbServiceConnectionError` is private to W&B."""
    return isinstance(error, ConnectionError) or type(error).__name__ == "WandbServiceConnectionError"


def _open_in_thread(init: "Callable[[], wandb.Run]") -> "wandb.Run":
    """Open a run in a thread, which Ctrl-C and SIGTERM abandon; an abandoned run finishes with exit code 1."""
    future: Future[wandb.Run] = Future()
    is_abandoned = threading.Event()

    def work() -> None:
        try:
            run = init()
        except BaseException as error:
            future.set_exception(error)
            return
        future.set_result(run)
        if is_abandoned.is_set():
            run.finish(exit_code=1)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result()
    except (KeyboardInterrupt, SystemExit):
        is_abandoned.set()
        hurry()
        raise


def _finish_in_thread(run: "wandb.Run") -> None:
    """Finish a garbage-collected run; in a thread, since garbage collection interrupts any code."""

    def finish() -> None:
        _own_runs.discard(run)
        with suppress(Exception), muted_stderr():
            run.finish()

    threading.Thread(target=finish, daemon=True).start()


@contextmanager
def muted_stderr() -> Iterator[None]:
    """Discard this thread's writes to stderr.

    An abandoned thread may leave this context long after other code has replaced stderr; the replacement then stays.
    """
    before, mute = sys.stderr, _Mute()
    sys.stderr = mute
    try:
        yield
    finally:
        if sys.stderr is mute:
            sys.stderr = before


class _Mute(io.TextIOBase):
    """Replace stderr: discard writes of the thread that made this stream, and pass on writes of all other threads."""

    def __init__(self) -> None:
        self._thread, self._stderr = threading.get_ident(), sys.stderr

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stderr.write(text)
