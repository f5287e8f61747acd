"""The main job in its own process, killed, signalled, or with a failing server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.tracked import history, numbers, run_command
from tests.helpers.wandb_server import Fault, WandbServer


def start_job(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    """Start the main job in its own process group, on few images for many steps; its output goes to `folder`.log.

    The process handles SIGINT even where the tests run as a shell's background job, which ignores SIGINT.
    """
    small = "--data.limit 256 --data.validation 64 --model.channels 4 8"
    flags = f"{small} --recipe.steps 2000 --recipe.log-every 1 --recipe.evaluate-every 20 --recipe.schedule constant"
    with open(folder.with_suffix(".log"), "wb") as log:
        command = [sys.executable, "-m", "experiments.joint", *flags.split(), *args]
        return subprocess.Popen(
            command,
            cwd=folder.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def wait_for_rows(server: WandbServer, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (server.store.runs and len(server.run.rows) >= count):
        assert time.monotonic() < deadline, "no rows have arrived"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_signal_finishes_run_with_its_exit_code(
    server: WandbServer, tmp_path: Path, number: int, to_group: bool
) -> None:
    job = start_job(tmp_path / "run", f"--run.dir={tmp_path / 'run'}")
    wait_for_rows(server, 5)
    (os.killpg if to_group else os.kill)(job.pid, number)
    assert job.wait(timeout=20) == 128 + number
    run = server.run
    assert (run.state, run.exit_code) == ("failed", 128 + number)
    assert numbers(run.rows) == history(tmp_path / "run")
    output = (tmp_path / "run.log").read_text()
    assert "Traceback" not in output
    assert f"W&B  {server.url}" in output


@pytest.mark.slow
def test_resume_of_killed_run_logs_every_step_once(server: WandbServer, tmp_path: Path) -> None:
    job = start_job(tmp_path / "run", f"--run.dir={tmp_path / 'run'}")
    wait_for_rows(server, 45)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(timeout=20)
    steps = f"--recipe.steps={history(tmp_path / 'run')[-1]['step'] + 10}"
    again = start_job(tmp_path / "run", f"--run.resume={tmp_path / 'run'}", steps)
    assert again.wait(timeout=120) == 0
    rows = history(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["step"] for row in server.run.rows] == [row["step"] for row in rows]
    assert (server.run.state, server.run.exit_code) == ("finished", 0)


def wait_for_history(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not ((folder / "history.jsonl").exists() and len(history(folder)) >= count):
        assert time.monotonic() < deadline, "no rows are logged"
        time.sleep(0.02)


def restart_after_6_seconds(server: WandbServer) -> None:
    server.stop()
    time.sleep(6)
    server.start()


FAULTS_IN_TRAINING = {
    "none": lambda server: None,
    "500s for 10 s": lambda server: server.break_down(Fault(status=500, seconds=10)),
    "refuses for 6 s": restart_after_6_seconds,
    "refuses to the end": WandbServer.stop,
    "hangs to the end": lambda server: server.break_down(Fault(status=None, seconds=90)),
    "one 403 on the file stream": lambda server: server.break_down(Fault("file_stream", 403, count=1)),
}


FAULTS_AT_START = {
    "dead at the start": WandbServer.stop,
    "hangs at the start": lambda server: server.break_down(Fault(status=None, seconds=90)),
    "rejects the key": lambda server: setattr(server, "keys", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS_IN_TRAINING, *FAULTS_AT_START])
def test_upload_completes_rows_after_any_fault(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """Use the default patience; print the effect of each fault."""
    folder = tmp_path / "run"
    keys = server.keys
    if fault in FAULTS_AT_START:
        FAULTS_AT_START[fault](server)
    start = time.monotonic()
    job = start_job(folder, f"--run.dir={folder}", "--recipe.steps=400", "--recipe.evaluate-every=200")
    wait_for_history(folder, 20)
    seconds_to_open = time.monotonic() - start
    if fault in FAULTS_IN_TRAINING:
        FAULTS_IN_TRAINING[fault](server)
    assert job.wait(timeout=100) == 0
    seconds = time.monotonic() - start
    assert seconds_to_open < 30
    assert time.time() - (folder / "summary.json").stat().st_mtime < 30
    rows, line = history(folder), folder.with_suffix(".log").read_text().strip().splitlines()[-1]
    arrived = len(server.run.rows) if server.store.runs else 0
    if "upload with" in line:
        server.faults.clear()
        server.keys = keys
        if fault in ("dead at the start", "refuses to the end"):
            server.start()
        run_command(line)
    with capsys.disabled():
        print(
            f"\n| {fault} | {len(rows)} | {arrived} | {len(server.run.rows)} | {seconds_to_open:.1f} | {seconds:.1f} |",
            end="",
        )
    assert [row["step"] for row in rows] == list(range(1, 401))
    assert numbers(server.run.rows) == rows
    count = sum("test/code" in row for row in server.run.rows)
    assert count == (2 if fault == "refuses to the end" else 1)  # the first upload of the tables was lost
    assert (server.run.state, server.run.exit_code) == ("finished", 0)


@pytest.mark.slow
def test_upload_completes_killed_run(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = start_job(folder, f"--run.dir={folder}")
    wait_for_history(folder, 60)
    job.kill()
    job.wait(timeout=20)
    run_command(f"upload with `python -m ae.upload --run {folder}`")
    assert numbers(server.run.rows) == history(folder)
    assert (server.run.state, server.run.exit_code) == ("failed", 1)
    assert server.store.artifact("ae", f"model-{server.run.name}", "best") is not None
