"""Threads of a training, and the warning where other processes need the cores."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ae import Joint, Recipe, Splits, fit
from ae.training.crowding import Crowding
from ae.utils import cores
from tests.helpers.small import autoencoder


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def stat(folder: Path, *lines: str) -> Path:
    path = folder / "stat"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("others", "threads", "cores", "better"),
    [(0.0, 2, 2, None), (0.4, 2, 2, None), (1.0, 2, 2, 1), (2.0, 2, 2, 1), (3.0, 8, 8, 5), (1.9, 1, 2, None)],
)
def test_crowding_warns_where_threads_outnumber_free_cores(
    others: float, threads: int, cores: int, better: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ae.training.crowding.busy_by_others", lambda: lambda: others)
    monkeypatch.setattr("ae.training.crowding.core_count", lambda: cores)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    crowding = Crowding()
    line = crowding.warning()
    if better is None:
        assert line is None
    else:
        assert line is not None
        assert line.startswith(f"other processes keep {others:.1f} of {cores} cores busy")
        assert line.endswith(f"set Recipe.threads to {better}")
    assert crowding.warning() is None


def test_busy_by_others_subtracts_this_process_and_unusable_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns: user, nice, system, idle, iowait, irq, softirq, steal, and guests, which are in user and nice."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    clock = iter([10.0, 12.0])
    own = iter([5.0, 6.0])
    monkeypatch.setattr(cores.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cores.time, "process_time", lambda: next(own))
    before = ["cpu  9 9 9 9 9 9 9 9 9 9"] + [f"cpu{i} 100 0 50 1000 10 0 0 0 7 0" for i in range(3)]
    after = [
        "cpu  9 9 9 9 9 9 9 9 9 9",
        "cpu0 250 10 60 1030 10 0 0 0 7 0",  # 170 busy
        "cpu1 900 0 50 1000 10 0 0 0 7 0",
        "cpu2 200 0 50 1000 110 20 10 20 7 0",  # 150 busy
    ]
    monkeypatch.setattr(cores, "_STAT", stat(tmp_path, *before))
    measure = cores.busy_by_others()
    stat(tmp_path, *after)
    assert measure() == pytest.approx((3.2 - 1.0) / 2)


def test_busy_by_others_is_none_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "_STAT", tmp_path / "none")
    measure = cores.busy_by_others()
    time.sleep(0.11)
    assert measure() is None
    assert Crowding().warning() is None


@pytest.mark.usefixtures("threads")
def test_fit_sets_the_threads_and_warns(
    digits: Splits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ae.training.crowding.busy_by_others", lambda: lambda: 2.0)
    monkeypatch.setattr("ae.training.crowding.core_count", lambda: 2)
    for threads, lines in ((2, 1), (1, 0)):
        fit(autoencoder(), Joint(), digits, Recipe(steps=4, batch_size=8, log_every=1, threads=threads))
        assert torch.get_num_threads() == threads
        assert capsys.readouterr().err.count("set Recipe.threads to 1") == lines


@pytest.mark.slow
def test_busy_by_others_measures_another_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.5)
            measure = cores.busy_by_others()
            time.sleep(2)
            busy = measure()
        finally:
            process.kill()
    if sys.platform == "linux":
        assert busy is not None
        assert busy > 0.3  # of one core, which other tests share
