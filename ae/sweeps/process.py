"""The process of a trial: start it, and read what it has logged in its run's folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ae.runs.folder import CONFIG, read_history, read_summary
from ae.runs.lock import is_running
from ae.sweeps.space import Sweep
from ae.tracking.row_log import Row

_GRACE = 30.0  # seconds between SIGTERM and SIGKILL, in which the run is finished


@contextmanager
def trial_process(
    sweep: Sweep, folder: Path, point: dict[str, Any], arguments: Sequence[str], environment: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes] | None]":
    """Start the trial, or resume a killed one; stop it on exit.

    None where the trial is finished, or still running since only its worker was killed. `environment` has defaults of
    environment variables.
    """
    if is_running(folder) or summary_of(folder) is not None:
        yield None
        return
    process = _start(sweep, folder, point, arguments, environment)
    try:
        yield process
    finally:
        _stop(process)


def _start(
    sweep: Sweep, folder: Path, point: dict[str, Any], arguments: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start the trial's process, with its output in `<folder>.log` and W&B's files in the study's folder."""
    if (folder / CONFIG).exists():
        run_arguments = [f"--run.resume={folder}"]
    else:
        run_arguments = [f"--run.dir={folder}", f"--run.group={sweep.name}", *sweep.arguments(point)]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", sweep.module, *run_arguments, *arguments],
            env={"WANDB_DIR": str(folder.parent), **environment, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the trial only through this process
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM, so that the run is finished, and SIGKILL after a grace period."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Read a trial's summary; None where it is missing or broken: such a trial has failed."""
    try:
        return read_summary(folder)
    except (ValueError, OSError):
        return None


def history_of(folder: Path) -> list[Row]:
    """Read a trial's history; empty where it is broken: such a trial is never pruned."""
    try:
        return read_history(folder)
    except (ValueError, TypeError, OSError):
        return []
