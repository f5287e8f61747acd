"""What becomes of a run when W&B is in trouble: exit code 0, and a line whose command brings all rows to the server."""

import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from ae import Run, RunConfig, Splits
from ae.tracking.media import Media, Table
from ae.utils import signals
from tests.helpers import ROOT
from tests.helpers.tracked import history, job, last_line, numbers, run_command, table
from tests.helpers.wandb_log import read_log
from tests.helpers.wandb_server import Fault, WandbServer


def log_some(folder: Path, patience: float = 3.0, before: Any = None, after: Any = None, steps: int = 20) -> None:
    """A run that logs some rows; `before` they are logged and `after`, something happens to the server."""
    with Run("joint", RunConfig(dir=folder, patience=patience)) as run:
        if before:
            before()
        for step in range(steps):
            run.log({"train/loss": math.sin(step)}, step, step / 10)
        if after:
            after()
        run.summarise({"test/mse": 0.5})


def all_arrives(server: WandbServer, folder: Path, line: str) -> None:
    server.faults.clear()
    run_command(line)
    assert numbers(server.run.rows) == history(folder)
    assert server.run.summary["test/mse"] == 0.5
    assert (server.run.state, server.run.exit_code) == ("finished", 0)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [(None, None), ("short", "WANDB_API_KEY invalid"), ("r" * 40, "401|not logged in|[Uu]nauthori|invalid API key")],
)
def test_without_a_good_key_the_run_is_offline(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str | None,
    complaint: str | None,
) -> None:
    good = os.environ["WANDB_API_KEY"]
    if key is None:
        monkeypatch.delenv("WANDB_API_KEY")
    else:
        monkeypatch.setenv("WANDB_API_KEY", key)
    log_some(tmp_path / "run")
    shown = capsys.readouterr()
    complaints = [line for line in shown.err.splitlines() if line.strip()]
    assert len(complaints) == (0 if complaint is None else 1)
    if complaint is not None:
        assert re.match(f"W&B  this run is offline: .*({complaint})", complaints[0])
    monkeypatch.setenv("WANDB_API_KEY", good)
    all_arrives(server, tmp_path / "run", shown.out.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dead", "hanging"])
def test_a_server_that_does_not_answer_at_the_start_leads_to_an_offline_run(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    if fault == "dead":
        server.stop()
    else:
        server.break_down(Fault(status=None, seconds=20))
    began = time.monotonic()
    log_some(tmp_path / "run", patience=1.0)
    assert time.monotonic() - began < 15
    shown = capsys.readouterr()
    assert "W&B  this run is offline: " in shown.err
    if fault == "dead":
        server.start()
    server.faults.clear()
    all_arrives(server, tmp_path / "run", shown.out.strip().splitlines()[-1])


@pytest.mark.slow
def test_one_403_on_the_file_stream_loses_nothing(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_some(tmp_path / "run", before=lambda: server.break_down(Fault("file_stream", 403, count=1)))
    line = last_line(capsys)
    assert "not all has reached the server" in line
    assert len(server.run.rows) < 20
    all_arrives(server, tmp_path / "run", line)


def test_the_last_line_says_which_rows_the_server_refused(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_some(tmp_path / "run", before=lambda: server.break_down(Fault("file_stream", 413, count=1)))
    assert re.match(
        "W&B  not all has reached the server, missing: .*rows.*: look with .*upload with ", last_line(capsys)
    )


def kill_service() -> None:
    """Kill W&B's service process, which this process has started."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_child = int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            if is_child and b"wandb-core" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    time.sleep(0.3)  # until the client has seen that


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the process in Linux's /proc")
def test_a_run_whose_service_process_is_killed_is_opened_again(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        for step in range(3):
            run.log({"train/loss": 0.5}, step, step / 10, {"reconstructions": picture(step)})
        kill_service()
        for step in range(3, 6):
            run.log({"train/loss": 0.5}, step, step / 10)
        kill_service()
        run.summarise({"test/mse": 0.5})
    shown = capsys.readouterr()
    assert shown.err.count("W&B  opened the run again after: ") == 2
    assert shown.out.strip() == f"W&B  {server.url}/tester/ae/runs/{run.id}"
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [0, 1, 2]
    assert (server.run.summary["test/mse"], server.run.state) == (0.5, "finished")
    assert server.store.artifact("ae", "source-ae", "latest") is not None


def test_a_run_after_the_service_process_has_died_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-/nowhere/socket")
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="offline")) as run:
        run.log({"train/loss": 0.5}, 0, 0.0)
    (log,) = (tmp_path / "run").glob("wandb/offline-run-*")
    assert read_log(log).exit_code == 0
    assert "W&B  offline" in capsys.readouterr().out


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8))


def log_pictures(folder: Path, before_the_last: Callable[[], object]) -> None:
    media = Media({"code": picture(9)}, {"worst": Table(("mse",), [(0.5,)])})
    with Run("joint", RunConfig(dir=folder)) as run:
        run.log({"train/loss": 0.5}, 1, 0.1, {"reconstructions": picture(1)})
        before_the_last()
        run.log({"train/loss": 0.4}, 2, 0.2, {"reconstructions": picture(2)})
        run.summarise({"test/mse": 0.5}, media)


def test_a_home_that_cannot_be_written_costs_nothing(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CACHE", "DATA"):  # remembered, to be set back
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    log_pictures(tmp_path / "run", lambda: None)
    shown = capsys.readouterr()
    assert shown.out.strip() == f"W&B  {server.url}/tester/ae/runs/{server.run.name}"
    assert shown.err == ""
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert server.store.artifact("ae", "source-ae", "latest") is not None
    assert "test/code" in server.run.rows[-1]
    assert table(server, "test/worst") == [{"mse": 0.5}]


@pytest.mark.slow
def test_pictures_that_were_deleted_are_missed_and_sent_from_the_runs_folder(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("storage/run/.*media", 403))
    folder = tmp_path / "run"
    log_pictures(folder, lambda: None)
    for media in folder.glob("wandb/run-*/files/media"):
        shutil.rmtree(media)
    line = last_line(capsys)
    assert "not all has reached the server, missing: pictures" in line
    server.faults.clear()
    run_command(line)
    sent = {row["step"]: server.run.files[row["reconstructions"]["path"]] for row in server.run.rows}
    assert sent == {step: (folder / f"pictures/reconstructions-{step:08d}.png").read_bytes() for step in (1, 2)}


def test_numbers_are_logged_where_pictures_cannot_be(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log_pictures(tmp_path / "run", lambda: monkeypatch.setattr(shutil, "copy", fail))  # W&B's, of media
    monkeypatch.undo()
    shown = capsys.readouterr()
    assert shown.err.count("W&B  in trouble, the run goes on without pictures: ") == 1
    assert "missing: pictures" in shown.out
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [1]
    assert server.run.summary["test/mse"] == 0.5


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_does_not_wait_for_wandb_to_begin(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(signals, "_is_urgent", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    server.break_down(Fault(status=None, seconds=5))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(error):
            Run("joint", RunConfig(dir=tmp_path / "run", patience=2.0))
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 4
    assert signals.is_urgent()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert ("error: terminated" in capsys.readouterr().err) == (number == signal.SIGTERM)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.slow
def test_pictures_that_the_server_refused_are_missed_and_sent_again(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("storage/", 403))
    job(digits, RunConfig(dir=tmp_path / "run", patience=3.0))
    line = last_line(capsys)
    assert "not all has reached the server" in line
    assert not any("media" in name for name in server.run.files)
    server.faults.clear()
    run_command(line)
    assert numbers(server.run.rows) == history(tmp_path / "run")
    for row in server.run.rows:
        if "reconstructions" in row:
            sent = server.run.files[row["reconstructions"]["path"]]
            assert sent == (tmp_path / f"run/pictures/reconstructions-{row['step']:08d}.png").read_bytes()
    assert len(table(server, "test/misclassified")) == 32
    assert server.store.artifact("ae", f"model-{server.run.name}", "best") is not None


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dead", "hanging", "500"])
def test_a_server_that_fails_at_the_end_loses_nothing(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    happens = {
        "dead": server.stop,
        "hanging": lambda: server.break_down(Fault(status=None, seconds=20)),
        "500": lambda: server.break_down(Fault(status=500, seconds=20)),
    }
    began = time.monotonic()
    log_some(tmp_path / "run", patience=1.5, after=happens[fault])
    assert time.monotonic() - began < 25
    line = last_line(capsys)
    assert "not all has reached the server" in line
    if fault == "dead":
        server.start()
    all_arrives(server, tmp_path / "run", line)


@pytest.mark.slow
def test_500s_that_pass_are_waited_for(server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_some(tmp_path / "run", patience=15.0, before=lambda: server.break_down(Fault(status=500, seconds=2)))
    assert last_line(capsys) == f"W&B  {server.url}/tester/ae/runs/{server.run.name}"
    assert numbers(server.run.rows) == history(tmp_path / "run")


def start_job(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    """The main job in a process group of its own, on few images but for many steps; its output goes to `folder`.log.

    Ctrl-C reaches it even where the tests run in a shell's background, which has its processes ignore it.
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
        assert time.monotonic() < deadline, "no rows have come"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_finishes_the_run_as_what_it_was(
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
def test_a_killed_run_is_resumed_with_no_step_lost_or_doubled(server: WandbServer, tmp_path: Path) -> None:
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
        assert time.monotonic() < deadline, "nothing is logged"
        time.sleep(0.02)


def in_two_halves(server: WandbServer) -> None:
    server.stop()
    time.sleep(6)
    server.start()


MIDDLE = {
    "none": lambda server: None,
    "500s for 10 s": lambda server: server.break_down(Fault(status=500, seconds=10)),
    "refuses for 6 s": in_two_halves,
    "refuses to the end": WandbServer.stop,
    "hangs to the end": lambda server: server.break_down(Fault(status=None, seconds=90)),
    "one 403 on the file stream": lambda server: server.break_down(Fault("file_stream", 403, count=1)),
}
START = {
    "dead at the start": WandbServer.stop,
    "hangs at the start": lambda server: server.break_down(Fault(status=None, seconds=90)),
    "rejects the key": lambda server: setattr(server, "keys", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*MIDDLE, *START])
def test_no_fault_of_the_server_loses_a_row_of_the_main_job(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """With the patience that users have; prints what each fault did."""
    folder = tmp_path / "run"
    keys = server.keys
    if fault in START:
        START[fault](server)
    began = time.monotonic()
    job = start_job(folder, f"--run.dir={folder}", "--recipe.steps=400", "--recipe.evaluate-every=200")
    wait_for_history(folder, 20)
    opened = time.monotonic() - began
    if fault in MIDDLE:
        MIDDLE[fault](server)
    assert job.wait(timeout=100) == 0
    seconds = time.monotonic() - began
    assert opened < 30
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
            f"\n| {fault} | {len(rows)} | {arrived} | {len(server.run.rows)} | {opened:.1f} | {seconds:.1f} |", end=""
        )
    assert [row["step"] for row in rows] == list(range(1, 401))
    assert numbers(server.run.rows) == rows
    times_shown = sum("test/code" in row for row in server.run.rows)
    assert times_shown == (2 if fault == "refuses to the end" else 1)  # then the tables of the first had not arrived
    assert (server.run.state, server.run.exit_code) == ("finished", 0)


@pytest.mark.slow
def test_rows_of_a_killed_run_can_be_uploaded(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = start_job(folder, f"--run.dir={folder}")
    wait_for_history(folder, 60)
    job.kill()
    job.wait(timeout=20)
    run_command(f"upload with `python -m ae.upload --run {folder}`")
    assert numbers(server.run.rows) == history(folder)
    assert (server.run.state, server.run.exit_code) == ("failed", 1)
    assert server.store.artifact("ae", f"model-{server.run.name}", "best") is not None
