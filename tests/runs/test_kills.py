"""Killed runs, once resumed, end with the same bytes as an uninterrupted run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ae import Data
from ae.cli import parse
from experiments import joint
from tests.helpers import ROOT
from tests.helpers.held import held
from tests.helpers.shards import write_parquet, write_tars
from tests.helpers.tiers import slow
from tests.helpers.tracked import history

# 36 steps; states every 5 steps and at validations; rows span several states.
RECIPE = (
    "--data.validation 60 --recipe.batch-size 40 --recipe.epochs 3 --recipe.log-every 4 --recipe.evaluate-every 9 "
    "--run.save-every 5 --model.channels 4 8 --model.hidden 16 --run.wandb disabled"
).split()
JOB = ["--data.limit", "460", *RECIPE]
STREAMED = "--data.name hub --data.stream --data.buffer 64".split()  # 520 images, of which 52 are for the test


def start(module: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=reset_signals,
    )


def reset_signals() -> None:
    """Restore the handlers of SIGINT and SIGHUP: a run ignores signals that a background shell or nohup ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for_exit(process: "subprocess.Popen[str]", code: int) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err[-2000:]
    return err


def check_equal(expected: Path, actual: Path) -> None:
    for name in ("model.safetensors", "best.safetensors"):
        assert (expected / name).read_bytes() == (actual / name).read_bytes()
    rows = [
        [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in history(run)]
        for run in (expected, actual)
    ]
    assert rows[0] == rows[1]
    assert (expected / "reconstructions.png").read_bytes() == (actual / "reconstructions.png").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    run = tmp_path_factory.mktemp("kills") / "whole"
    train(*JOB, "--run.dir", run)
    return run


def train(*arguments: object) -> None:
    joint.main(parse(joint.Config, list(map(str, arguments))))


def moments(count: int) -> Sequence[tuple[str, int]]:
    """Return random functions and calls at which a run is killed, always the same."""
    last = {"a step": 36, "a gradient": 36, "an evaluation": 4, "a write": 40, "a rename": 25}
    rng = random.Random(0)
    return [(moment, rng.randint(1, last[moment])) for moment, _ in zip([*last] * count, range(count), strict=False)]


@pytest.mark.parametrize(("moment", "call"), [("a rename", 9), *(slow(*moment) for moment in moments(20))])
def test_resume_of_killed_run_gives_same_bytes(whole: Path, tmp_path: Path, moment: str, call: int) -> None:
    run = tmp_path / "run"
    wait_for_exit(start("tests.helpers.killed", moment, call, *JOB, "--run.dir", run), -signal.SIGKILL)
    assert not (run / "summary.json").exists()
    train("--run.resume", run)
    check_equal(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_resume_of_run_killed_in_mid_stream_gives_same_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    """Images are decoded ahead of the step, by the process itself or by a worker."""
    images = Data("mnist", limit=520).load().train
    flags = [*STREAMED, *RECIPE, "--data.root", str(write(tmp_path / "shards", held(images)))]
    train(*flags, "--data.workers", 0, "--run.dir", tmp_path / "whole")
    for moment, call, workers in (("an image", 700, 0), ("a step", 17, 1), ("a write", 9, 0)):
        run = tmp_path / moment.replace(" ", "-")
        flags_of_run = [*flags, "--data.workers", workers, "--run.dir", run]
        wait_for_exit(start("tests.helpers.killed", moment, call, *flags_of_run), -signal.SIGKILL)
        assert not (run / "summary.json").exists()
        train("--run.resume", run)
        check_equal(tmp_path / "whole", run)


@pytest.mark.slow
def test_resume_after_ten_kills_gives_same_bytes(whole: Path, tmp_path: Path) -> None:
    """The run is killed by the clock, at any point."""
    run, rng = tmp_path / "run", random.Random(1)
    process = start("experiments.joint", *JOB, "--run.dir", run)
    for _ in range(10):
        time.sleep(rng.uniform(3.0, 6.0))  # seconds; imports take two or three
        process.kill()
        process.communicate()
        if not (run / "state.pt").exists() and not (run / "state.prev.pt").exists():
            subprocess.run(["rm", "-rf", str(run)], check=True)
            process = start("experiments.joint", *JOB, "--run.dir", run)
        else:
            process = start("experiments.joint", "--run.resume", run)
    wait_for_exit(process, 0)
    check_equal(whole, run)


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        slow(signal.SIGTERM, 143, "terminated"),
        slow(signal.SIGINT, 130, "interrupted"),
        slow(signal.SIGHUP, 129, "terminated, as its terminal was closed"),
        slow(signal.SIGUSR1, 138, "terminated by SIGUSR1"),
    ],
)
def test_signal_saves_state_and_ends_run(tmp_path: Path, number: int, code: int, line: str) -> None:
    run = tmp_path / "run"
    long = [*JOB, "--recipe.epochs", 1000, "--recipe.evaluate-every", 100_000, "--run.save-every", 100_000]
    process = start("experiments.joint", *long, "--run.dir", run, "--run.wandb", "offline")
    while not (run / "history.jsonl").exists() or len(history(run)) < 5:
        time.sleep(0.02)
    start_time = time.monotonic()
    process.send_signal(number)
    err = wait_for_exit(process, code)
    assert time.monotonic() - start_time < 10
    assert err.splitlines()[-1] == f"error: {line}"
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["position"]["step"] >= history(run)[-1]["step"] > 4  # later than the first state, which alone was due


@pytest.mark.slow
def test_ctrl_c_in_pipe_with_tee_saves_state_and_exits_with_130(tmp_path: Path) -> None:
    """A terminal sends SIGINT to all processes of the pipe: tee ends first, and stdout is closed."""
    run = tmp_path / "run"
    training = subprocess.Popen(
        [sys.executable, "-m", "experiments.joint", *JOB, "--recipe.epochs", "1000", "--run.dir", str(run)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=reset_signals,
    )
    tee = subprocess.Popen(
        ["tee", str(tmp_path / "log")], stdin=training.stdout, stdout=subprocess.DEVNULL, process_group=training.pid,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert training.stdout is not None
    training.stdout.close()
    while not (run / "history.jsonl").exists() or len(history(run)) < 5:
        time.sleep(0.02)
    os.killpg(training.pid, signal.SIGINT)
    assert training.wait(timeout=10) == 130
    assert tee.wait(timeout=10) == -signal.SIGINT
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["position"]["step"] >= history(run)[-1]["step"]


@pytest.mark.slow
def test_second_ctrl_c_ends_run_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("experiments.joint", *JOB, "--recipe.epochs", 1000, "--run.dir", run)
    while not (run / "history.jsonl").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    start_time = time.monotonic()
    assert re.search("error: interrupted", wait_for_exit(process, 130))
    assert time.monotonic() - start_time < 2
