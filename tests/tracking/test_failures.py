"""Failures of W&B during a run: exit code 0, and the command of the run's last line completes the run on the server."""

import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

from ae import Run, RunConfig, Splits
from ae.tracking.media import Media, Table
from tests.helpers.tracked import (
    assert_upload_completes,
    history,
    job,
    last_line,
    log_rows,
    numbers,
    run_command,
    table,
)
from tests.helpers.wandb_server import Fault, WandbServer


@pytest.mark.slow
def test_upload_completes_rows_after_403_on_file_stream(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_rows(tmp_path / "run", before=lambda: server.break_down(Fault("file_stream", 403, count=1)))
    line = last_line(capsys)
    assert "incomplete on the server" in line
    assert len(server.run.rows) < 20
    assert_upload_completes(server, tmp_path / "run", line)


@pytest.mark.slow
def test_tracker_finish_names_rows_refused_by_server(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_rows(tmp_path / "run", before=lambda: server.break_down(Fault("file_stream", 413, count=1)))
    assert re.match("W&B  incomplete on the server, missing: .*rows.*: view with .*upload with ", last_line(capsys))


def kill_service() -> None:
    """Kill W&B's service process, a child of this process."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_child = int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            if is_child and b"wandb-core" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    time.sleep(0.3)  # until the client notices


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the process in Linux's /proc")
def test_tracker_reopens_run_after_service_is_killed(
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
    output = capsys.readouterr()
    assert output.err.count("W&B  reopened the run after: ") == 2
    assert output.out.strip() == f"W&B  {server.url}/tester/ae/runs/{run.id}"
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [0, 1, 2]
    assert (server.run.summary["test/mse"], server.run.state) == (0.5, "finished")
    assert server.store.artifact("ae", "source-ae", "latest") is not None


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8))


def log_pictures(folder: Path, before_last_row: Callable[[], object]) -> None:
    media = Media({"code": picture(9)}, {"worst": Table(("mse",), [(0.5,)])})
    with Run("joint", RunConfig(dir=folder)) as run:
        run.log({"train/loss": 0.5}, 1, 0.1, {"reconstructions": picture(1)})
        before_last_row()
        run.log({"train/loss": 0.4}, 2, 0.2, {"reconstructions": picture(2)})
        run.summarise({"test/mse": 0.5}, media)


@pytest.mark.slow
def test_tracker_works_without_writable_home(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CACHE", "DATA"):  # so that monkeypatch restores them
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    log_pictures(tmp_path / "run", lambda: None)
    output = capsys.readouterr()
    assert output.out.strip() == f"W&B  {server.url}/tester/ae/runs/{server.run.name}"
    assert output.err == ""
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert server.store.artifact("ae", "source-ae", "latest") is not None
    assert "test/code" in server.run.rows[-1]
    assert table(server, "test/worst") == [{"mse": 0.5}]


@pytest.mark.slow
def test_upload_sends_pictures_of_run_folder_after_media_are_deleted(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("storage/run/.*media", 403))
    folder = tmp_path / "run"
    log_pictures(folder, lambda: None)
    for media in folder.glob("wandb/run-*/files/media"):
        shutil.rmtree(media)
    line = last_line(capsys)
    assert "incomplete on the server, missing: pictures" in line
    server.faults.clear()
    run_command(line)
    sent = {row["step"]: server.run.files[row["reconstructions"]["path"]] for row in server.run.rows}
    assert sent == {step: (folder / f"pictures/reconstructions-{step:08d}.png").read_bytes() for step in (1, 2)}


@pytest.mark.slow
def test_tracker_logs_numbers_where_pictures_fail(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log_pictures(tmp_path / "run", lambda: monkeypatch.setattr(shutil, "copy", fail))  # W&B copies media with it
    monkeypatch.undo()
    output = capsys.readouterr()
    assert output.err.count("W&B  failed, the run continues without pictures: ") == 1
    assert "missing: pictures" in output.out
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [1]
    assert server.run.summary["test/mse"] == 0.5


@pytest.mark.slow
def test_upload_sends_pictures_refused_by_server(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("storage/", 403))
    job(digits, RunConfig(dir=tmp_path / "run", patience=3.0))
    line = last_line(capsys)
    assert "incomplete on the server" in line
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
def test_upload_completes_run_after_failure_at_end(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    faults = {
        "dead": server.stop,
        "hanging": lambda: server.break_down(Fault(status=None, seconds=20)),
        "500": lambda: server.break_down(Fault(status=500, seconds=20)),
    }
    start = time.monotonic()
    log_rows(tmp_path / "run", patience=1.5, after=faults[fault])
    assert time.monotonic() - start < 25
    line = last_line(capsys)
    assert "incomplete on the server" in line
    if fault == "dead":
        server.start()
    assert_upload_completes(server, tmp_path / "run", line)


@pytest.mark.slow
def test_tracker_finish_waits_for_transient_500s(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_rows(tmp_path / "run", patience=15.0, before=lambda: server.break_down(Fault(status=500, seconds=2)))
    assert last_line(capsys) == f"W&B  {server.url}/tester/ae/runs/{server.run.name}"
    assert numbers(server.run.rows) == history(tmp_path / "run")


def test_tracker_tolerates_failing_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise wandb.errors.CommError("the service does not start")

    monkeypatch.setattr(wandb, "init", fail)
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert "W&B  this run is not tracked: the service does not start" in capsys.readouterr().err
    assert len(run.history()) == 1


@pytest.mark.slow
def test_tracker_tolerates_failing_log(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise BrokenPipeError("the service is gone")

    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        monkeypatch.setattr(wandb.Run, "log", fail)
        run.log({"train/loss": 0.5}, 1, 0.1)
        run.log({"train/loss": 0.4}, 2, 0.2)
        monkeypatch.undo()
    output = capsys.readouterr()
    assert output.err.count("W&B  failed, the run continues without rows: the service is gone") == 1
    assert f"python -m ae.upload --run {tmp_path / 'run'}" in output.out
    assert [row["step"] for row in run.history()] == [1, 2]
