"""Opening runs in W&B: modes, ids, several runs of a process, and runs that the user opened."""

import gc
import os
import re
import signal
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import wandb

from ae import InputError, Run, RunConfig
from ae.runs.folder import read_config
from ae.utils import signals
from tests.helpers.tiers import slow
from tests.helpers.tracked import (
    assert_upload_completes,
    log_rows,
)
from tests.helpers.wandb_log import read_log
from tests.helpers.wandb_server import Fault, WandbServer


@pytest.mark.parametrize(
    ("key", "warning"),
    [
        slow(None, None),
        slow("short", "WANDB_API_KEY invalid"),
        ("r" * 40, "401|not logged in|[Uu]nauthori|invalid API key"),
    ],
)
def test_connection_without_valid_key_is_offline(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str | None,
    warning: str | None,
) -> None:
    valid_key = os.environ["WANDB_API_KEY"]
    if key is None:
        monkeypatch.delenv("WANDB_API_KEY")
    else:
        monkeypatch.setenv("WANDB_API_KEY", key)
    log_rows(tmp_path / "run")
    output = capsys.readouterr()
    warnings = [line for line in output.err.splitlines() if line.strip()]
    assert len(warnings) == (0 if warning is None else 1)
    if warning is not None:
        assert re.match(f"W&B  this run is offline: .*({warning})", warnings[0])
    monkeypatch.setenv("WANDB_API_KEY", valid_key)
    assert_upload_completes(server, tmp_path / "run", output.out.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dead", "hanging"])
def test_connection_without_answer_is_offline(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    if fault == "dead":
        server.stop()
    else:
        server.break_down(Fault(status=None, seconds=20))
    start = time.monotonic()
    log_rows(tmp_path / "run", patience=1.0)
    assert time.monotonic() - start < 15
    output = capsys.readouterr()
    assert "W&B  this run is offline: " in output.err
    if fault == "dead":
        server.start()
    server.faults.clear()
    assert_upload_completes(server, tmp_path / "run", output.out.strip().splitlines()[-1])


def test_connection_replaces_dead_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-/nowhere/socket")
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="offline")) as run:
        run.log({"train/loss": 0.5}, 0, 0.0)
    (log,) = (tmp_path / "run").glob("wandb/offline-run-*")
    assert read_log(log).exit_code == 0
    assert "W&B  offline" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), slow(signal.SIGTERM, SystemExit)])
def test_connection_does_not_delay_signals(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(signals, "_is_urgent", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    server.break_down(Fault(status=None, seconds=5))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(error):
            Run("joint", RunConfig(dir=tmp_path / "run", patience=2.0))
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 4
    assert signals.is_urgent()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert ("error: terminated" in capsys.readouterr().err) == (number == signal.SIGTERM)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.slow
def test_connection_uses_environment_variables_as_defaults(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROJECT": "theirs", "NAME": "named", "RUN_GROUP": "g", "TAGS": "x,y", "NOTES": "n"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with Run("joint", RunConfig(dir=tmp_path / "a")):
        pass
    run = server.run
    assert (run.project, run.display_name, run.group) == ("theirs", "named", "g")
    assert (run.tags, run.notes) == (["x", "y"], "n")
    server.store.runs.clear()
    with Run("joint", RunConfig(dir=tmp_path / "b", project="mine", group="h", tags=("z",), name="other")):
        pass
    assert (server.run.project, server.run.display_name, server.run.group, server.run.tags) == (
        "mine",
        "other",
        "h",
        ["z"],
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Run("joint", RunConfig(dir=tmp_path / "c")) as local:
        pass
    assert list(local.folder.glob("wandb/offline-run-*"))


def test_connection_rejects_invalid_run_id(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "not/an/id")
    with pytest.raises(InputError, match=r"WANDB_RUN_ID must be 1 to 128 .*none of .*, got 'not/an/id'"):
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_tracker_uses_open_run_and_leaves_it_open(server: WandbServer, tmp_path: Path) -> None:
    with wandb.init(project="mine", config={"theirs": 1}) as users_run:
        users_run.log({"before": 1})
        with Run("joint", RunConfig(dir=tmp_path / "run"), {"ours": {"a": 2}}) as run:
            run.log({"train/loss": 0.5}, 1, 0.1)
            run.log({"train/loss": 0.25}, 2, 0.2)
            run.summarise({"test/mse": 0.5})
        users_run.log({"after": 1})
    server_run = server.run
    assert (server_run.project, server_run.state) == ("mine", "finished")
    assert server_run.config["theirs"]["value"] == 1
    assert server_run.config["ours"]["value"] == {"a": 2}
    assert [row["train/loss"] for row in server_run.rows if "train/loss" in row] == [0.5, 0.25]
    assert "before" in server_run.rows[0]
    assert "after" in server_run.rows[-1]


@pytest.mark.slow
def test_tracker_works_in_sweep_agent(server: WandbServer, tmp_path: Path) -> None:
    server.store.sweep = [{"width": 4}]

    def train() -> None:
        with Run("joint", RunConfig(dir=tmp_path / "run"), {"depth": 2}) as run:
            run.log({"train/loss": wandb.config["width"] / 8}, 1, 0.1)
            run.summarise({"test/mse": 0.5})

    with patch.dict(os.environ):  # the agent leaves variables, WANDB_DIR among them
        wandb.agent("a-sweep", train, project="swept", count=1)
    server_run = server.run
    assert (server_run.project, server_run.name, server_run.state) == ("swept", "swept0", "finished")
    assert {name: server_run.config[name]["value"] for name in ("width", "depth")} == {"width": 4, "depth": 2}
    assert [row["train/loss"] for row in server_run.rows] == [0.5]
    assert read_config(tmp_path / "run")["id"] == "swept0"


@pytest.mark.slow
def test_connection_opens_runs_one_after_another(server: WandbServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = Run("joint", RunConfig(dir=tmp_path / name))
        run.log({"train/loss": 0.5}, 1, 0.1)
        run.finish()
    assert [run.state for run in server.store.runs.values()] == ["finished"] * 2


def test_connection_is_disabled_by_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert not (tmp_path / "run/wandb").exists()


def test_connection_leaves_no_folder_after_refusal(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RESUME", "must")
    with pytest.raises(InputError, match=r"W&B refuses the run: .* does not exist"):
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def steps_of(server: WandbServer, run: Run) -> list[int]:
    return [row["step"] for row in server.store.run("ae", run.id).rows]


@pytest.mark.slow
def test_connection_keeps_rows_of_open_runs_apart(server: WandbServer, tmp_path: Path) -> None:
    runs = [Run("joint", RunConfig(dir=tmp_path / name)) for name in ("a", "b", "c")]
    for step in range(3):
        for offset, run in enumerate(runs):
            run.log({"train/loss": 0.5}, 10 * offset + step, 0.1)
    assert len({run.id for run in runs}) == 3
    for run in runs:
        run.finish()
    assert [steps_of(server, run) for run in runs] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert [run.state for run in server.store.runs.values()] == ["finished"] * 3


@pytest.mark.slow
def test_connection_finishes_garbage_collected_run(server: WandbServer, tmp_path: Path) -> None:
    run = Run("joint", RunConfig(dir=tmp_path / "run"))
    run.log({"train/loss": 0.5}, 1, 0.1)
    for _ in range(100):  # background threads hold a reference
        if not any(thread.is_alive() for thread in run._open().tracker._background.threads):  # type: ignore[union-attr]
            break
        time.sleep(0.05)
    del run
    gc.collect()
    deadline = time.monotonic() + 20
    while server.run.state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [row["step"] for row in server.run.rows] == [1]
    assert not (tmp_path / "run/summary.json").exists()


def test_connection_opens_run_in_thread(server: WandbServer, tmp_path: Path) -> None:
    def work() -> None:
        with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
            run.log({"train/loss": 0.5}, 1, 0.1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert [row["step"] for row in server.run.rows] == [1]
    assert server.run.state == "finished"


@pytest.mark.slow
def test_connection_rejects_new_run_with_existing_id(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    with Run("joint", RunConfig(dir=tmp_path / "a")) as first:
        first.log({"train/loss": 0.5}, 1, 0.1)
        with pytest.raises(InputError, match="WANDB_RUN_ID=chosen is the id of a run that is open"):
            Run("joint", RunConfig(dir=tmp_path / "b"))
    with pytest.raises(InputError, match=r"W&B refuses the run: .*chosen"):
        Run("joint", RunConfig(dir=tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    monkeypatch.setenv("WANDB_RESUME", "must")
    with Run("joint", RunConfig(dir=tmp_path / "c")) as second:
        second.log({"train/loss": 0.4}, 1, 0.1)
        second.log({"train/loss": 0.3}, 2, 0.2)
    assert [(row["step"], row["train/loss"]) for row in server.run.rows] == [(1, 0.5), (1, 0.4), (2, 0.3)]


@pytest.mark.slow
def test_connection_shortens_default_names(server: WandbServer, tmp_path: Path) -> None:
    with Run("joint" * 40, RunConfig(dir=tmp_path / ("r" * 200))):
        pass
    assert (server.run.display_name, server.run.job_type) == ("r" * 128, ("joint" * 40)[:128])
