"""Studies: shared, killed and resumed; and the same files under W&B's agent."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest

from ae import InputError
from ae.compare import compare, read_runs
from ae.runs.folder import read_config, read_history, read_summary
from ae.runs.lock import is_running
from ae.sweeps import Study, Sweep, read_sweep
from experiments import sweep as experiment
from tests.helpers.sweep_files import HILL, write_sweep
from tests.helpers.tiers import slow
from tests.helpers.wandb_server import WandbServer


def hill(folder: Path, **changes: Any) -> Sweep:
    return read_sweep(write_sweep(folder.with_suffix(".yaml"), **changes))


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def states(folder: Path) -> Counter[str]:
    return Counter(trial.state.name for trial in trials(folder))


def test_sweep_runs_each_grid_point_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    path = write_sweep(tmp_path / "s.yaml", parameters={**HILL["parameters"], "hill.sizes": {"values": [[1, 2]]}})
    experiment.main(experiment.Config(path, folder, jobs=1, wandb="disabled"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "trial 1  val/loss 1.2  hill.x=1.0 hill.sizes=[1, 2]"
    assert lines[3].split() == ["runs", "x", "val/loss"]
    assert lines[7].startswith("Can't be told: best by val/loss is x 1")
    assert lines[8:] == [
        "best trial 1  val/loss 1.2  hill.x=1.0 hill.sizes=[1, 2]",
        f"     {folder}/trial-0001",
        f"look python -m experiments.compare {folder} --html {folder}.html",
    ]
    assert (compare(read_runs([str(folder)])).sort, compare(read_runs([str(folder)])).maximize) == ("val/loss", False)
    assert [run.config["hill.x"] for run in read_runs([str(folder)])] == [0, 1, 3]
    assert [trial.value for trial in trials(folder)] == pytest.approx([4.2, 1.2, 1.2])
    assert {read_config(folder / f"trial-000{i}")["config"]["run"]["group"] for i in range(3)} == {"s"}
    Study(read_sweep(path), folder).work()  # no trial is left
    assert states(folder) == {"COMPLETE": 3}


@pytest.mark.slow
def test_study_runs_trials_side_by_side_on_shared_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("ae.sweeps.study.core_count", lambda: 6)
    folder = tmp_path / "s"
    parameters = {"hill.x": {"values": [0.0, 1.0]}, "together": {"value": 2}}  # each waits for the other's start
    Study(hill(folder, parameters=parameters), folder).work(["--run.wandb=disabled"], lambda _: None, jobs=9)
    check_runs(folder, [0, 1])
    assert [(read_summary(folder / f"trial-000{i}") or {})["threads"] for i in range(2)] == [3, 3]  # 6 cores, 2 points


@pytest.mark.slow
def test_study_stops_all_trials_when_one_worker_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "s"
    study = Study(hill(folder, parameters={"hill.x": {"values": [0.0, 1.0]}, "seconds": {"value": 5.0}}), folder)

    def say(line: str) -> None:
        raise AssertionError(line)  # no trial ends

    watch = Study._watch

    def failing(self: Study, trial: Any, place: Path, *rest: Any) -> bool:
        if trial.number:
            wait_for(lambda: is_running(folder / "trial-0000"))
            raise InputError("the disk is full")
        return watch(self, trial, place, *rest)

    monkeypatch.setattr(Study, "_watch", failing)
    with pytest.raises(InputError, match="the disk is full"):
        study.work(["--run.wandb=disabled"], say, jobs=2)
    assert not any(is_running(trial) for trial in folder.glob("trial-????"))
    assert states(folder) == {"RUNNING": 2}  # to be resumed


def test_sweep_default_jobs_are_cores_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(experiment, "core_count", lambda: 8)
    for memory, expected in ((None, 8), (2**40, 8), (5 * 2**30, 2), (1, 1)):
        monkeypatch.setattr(experiment, "free_memory", lambda memory=memory: memory)
        assert experiment.default_jobs() == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert experiment.default_jobs() == 1


@pytest.mark.slow
def test_study_continues_after_a_diverged_trial(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    lines: list[str] = []
    sweep = hill(folder, parameters={"hill.x": {"values": [1e300, 1.0]}})  # its square is infinite
    Study(sweep, folder).work(["--run.wandb=disabled"], lines.append)
    assert states(folder) == {"FAIL": 1, "COMPLETE": 1}
    assert lines[0].startswith(f"trial 0  failed, see {folder}/trial-0000.log")
    Study(sweep, folder).work(["--run.wandb=disabled"], lines.append)
    assert len(lines) == 2


@pytest.mark.slow
def test_study_prunes_trials(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    parameters = {"hill.x": {"values": [2.0, 9.0]}, "seconds": {"value": 0.4}}
    sweep = hill(folder, parameters=parameters, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    Study(sweep, folder).work(["--run.wandb=disabled"])
    first, second = trials(folder)
    assert first.state.name == "COMPLETE"
    assert second.state.name == "PRUNED"
    assert len(read_history(folder / "trial-0001")) < 5
    assert not is_running(folder / "trial-0001")
    assert [run.state for run in read_runs([str(folder)])] == ["finished", "stopped"]


def test_study_requires_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"a sweep without a server needs the extra `sweep`"):
        Study(hill(tmp_path / "s"), tmp_path / "s")


def test_study_refuses_the_folder_of_another_sweep(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    with pytest.raises(InputError, match="holds another sweep"):
        Study(hill(folder, parameters={"hill.x": {"values": [7.0]}}), folder)


@pytest.mark.parametrize("content", ["", "[", "[]", "5", '{"name": "s"}', "[" * 100_000])
def test_study_refuses_a_broken_description(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    (folder / "sweep.json").write_text(content)
    with pytest.raises(InputError, match=r"s/sweep\.json") as error:
        Study(hill(folder), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        "5",
        "{}",
        "[]",
        '{"op_code": "x", "worker_id": "w"}',
        '{"op_code": 99, "worker_id": "w"}',
        '{"op_code": 4, "worker_id": "w"}',
        '{"op_code": 6, "worker_id": "w", "trial_id": 0, "state": 77, "values": "x"}',
        "\x00" * 20,
    ],
)
def test_study_refuses_a_broken_journal(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    with open(folder / "study.log", "a") as log:
        log.write(f"{line}\n")
    with pytest.raises(InputError, match=r"s/study\.log") as error:
        Study(hill(folder), folder)
    assert "\n" not in str(error.value)


def test_study_removes_an_incomplete_journal_entry(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    whole = (folder / "study.log").read_bytes()
    (folder / "study.log").write_bytes(whole + whole.splitlines()[-1][:20])
    study = Study(hill(folder), folder)
    claimed = study._claim()
    assert claimed is not None
    study._study.tell(claimed[0], 1.0)
    claimed[1].release()
    assert states(folder) == {"COMPLETE": 1, "WAITING": 2}
    assert (folder / "study.log").read_bytes().startswith(whole)
    (folder / "study.log").write_bytes(whole[: len(whole) - 30])  # interrupted while the grid was enqueued
    assert len(Study(hill(folder), folder)._study.trials) == 3


def test_study_opens_regular_files_only(tmp_path: Path) -> None:
    for name in ("study.log", "sweep.json"):
        folder = tmp_path / name
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match=f"{name}/{name}: it must be a file, and is a named pipe"):
            Study(hill(tmp_path / "s"), folder)
    with pytest.raises(InputError, match="can't work in"):
        Study(hill(tmp_path / "s"), tmp_path / "s.yaml")


def test_sweep_raises_without_a_complete_trial(tmp_path: Path) -> None:
    path = write_sweep(tmp_path / "s.yaml", parameters={"hill.x": {"value": 1.0}})
    study = Study(read_sweep(path), tmp_path / "s")
    claimed = study._claim()
    assert claimed is not None
    study._study.tell(claimed[0], state=optuna.trial.TrialState.FAIL)
    claimed[1].release()
    with pytest.raises(InputError, match=r"no trial of .*/s has a value of val/loss: see the trials' logs"):
        experiment.main(experiment.Config(path, tmp_path / "s", wandb="disabled"))


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_study_samples_are_a_function_of_earlier_trials(tmp_path: Path, method: str) -> None:
    samples = []
    for name in ("a", "b"):
        folder = tmp_path / name / "s"
        folder.parent.mkdir()
        study = Study(hill(folder, method=method, parameters={"hill.x": {"min": 0.0, "max": 4.0}}), folder)
        values = []
        for result in (1.0, 0.5, 2.0):
            claimed = study._claim()
            assert claimed is not None
            trial, lock = claimed
            values.append(trial.params["hill.x"])
            study._study.tell(trial, result)
            lock.release()
        samples.append(values)
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 3


def start(path: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "experiments.sweep", str(path), f"--dir={folder}", "--wandb=disabled"]
    with open(path.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
        )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_runs(folder: Path, points: Iterable[Any]) -> None:
    """Check that each point was run once, and each step logged once."""
    runs = read_runs([str(folder)])
    assert sorted(run.config["hill.x"] for run in runs) == sorted(points)
    assert states(folder) == {"COMPLETE": len(runs)}
    for run in runs:
        assert [row["step"] for row in run.history] == [1, 2, 3, 4, 5], run.name


@pytest.mark.parametrize("orphaned", [slow(False), slow(True)])
def test_study_resumes_after_a_kill_without_losing_or_repeating_a_trial(tmp_path: Path, orphaned: bool) -> None:
    """Kill the worker, with its trial or without."""
    folder = tmp_path / "s"
    path = write_sweep(tmp_path / "s.yaml", parameters={"hill.x": {"values": [0.0, 3.0]}, "seconds": {"value": 0.3}})
    worker = start(path, folder)
    wait_for(lambda: len(read_history(folder / "trial-0000")) >= 2)
    worker.kill()
    worker.wait()
    if not orphaned:
        listed = subprocess.run(["pgrep", "-f", f"run.dir={folder}/trial-0000"], capture_output=True, text=True)
        os.kill(int(listed.stdout), signal.SIGKILL)
        wait_for(lambda: not is_running(folder / "trial-0000"))
    Study(read_sweep(path), folder).work(["--run.wandb=disabled"])
    check_runs(folder, [0, 3])


@pytest.mark.slow
def test_study_is_shared_by_several_processes(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    points = [float(i) for i in range(8)]
    path = write_sweep(tmp_path / "s.yaml", parameters={"hill.x": {"values": points}, "seconds": {"value": 0.1}})
    workers = [start(path, folder) for _ in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    check_runs(folder, points)


@pytest.mark.slow
def test_sweep_stops_its_trial_on_sigterm_and_sigint(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    path = write_sweep(tmp_path / "s.yaml", parameters={**HILL["parameters"], "seconds": {"value": 0.4}})
    for number in (signal.SIGTERM, signal.SIGINT):
        worker = start(path, folder)
        wait_for(lambda: any(is_running(trial) for trial in folder.glob("trial-????")))
        time.sleep(1)
        worker.send_signal(number)
        assert worker.wait(timeout=30) == 128 + number
        assert not any(is_running(trial) for trial in folder.glob("trial-????"))
    assert start(path, folder).wait(timeout=90) == 0
    check_runs(folder, [0, 1, 3])


@pytest.mark.slow
def test_wandb_agent_runs_a_sweep_file(server: WandbServer, tmp_path: Path) -> None:
    """Nested values, lists and a boolean pass through W&B's programs."""
    hill_parameters = {"x": {"values": [1.0, 3.0]}, "sizes": {"value": [4, 5]}, "is_steep": {"value": True}}
    command = ["${env}", sys.executable, "-m", "tests.helpers.hill", "${args}"]
    parameters = {"hill": {"parameters": hill_parameters}, "seconds": {"value": 0.0}}
    path = write_sweep(tmp_path / "a.yaml", command=command, parameters=parameters)
    created = subprocess.run(
        [sys.executable, "-m", "wandb", "sweep", "--project=swept", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    agent_command = re.search(r"wandb agent (\S+)", created.stderr)
    assert agent_command is not None, created.stderr
    with open(tmp_path / "agent.log", "w") as log:
        agent = [sys.executable, "-m", "wandb", "agent", agent_command[1]]
        subprocess.run(agent, stdout=log, stderr=log, check=True, timeout=120)
    runs = list(server.store.runs.values())
    assert len(runs) == 2, (tmp_path / "agent.log").read_text()
    assert [run.summary["val/loss"] for run in runs] == pytest.approx([1.2, 1.2])
    for run, x in zip(runs, (1, 3), strict=True):
        assert (run.project, run.state, len(run.rows)) == ("swept", "finished", 5)
        assert run.config["hill"]["value"] == {"x": x, "sizes": [4, 5], "is_steep": True}
        assert run.config["seconds"]["value"] == 0


@pytest.mark.slow
def test_sweep_searches_the_joint_experiment(tmp_path: Path) -> None:
    small = {"data.limit": 256, "data.validation": 64, "recipe.steps": 4, "recipe.evaluate_every": 2}
    parameters = {name: {"value": value} for name, value in small.items()} | {
        "model.channels": {"values": [[4], [4, 8]]},
        "model.norm": {"values": [True, False]},
        "recipe.lr": {"min": 0.01, "max": 0.1, "distribution": "log_uniform_values"},
    }
    metric = {"name": "val/mse", "goal": "minimize"}
    changes = {"method": "bayes", "run_cap": 3, "metric": metric, "parameters": parameters}
    path = write_sweep(tmp_path / "s.yaml", program="experiments/joint.py", **changes)
    experiment.main(experiment.Config(path, tmp_path / "s", wandb="offline"))
    assert len(list((tmp_path / "s/wandb").glob("offline-run-*"))) == 3  # as `wandb leet` shows them side by side
    summaries = [json.loads(file.read_text()) for file in sorted((tmp_path / "s").glob("*/summary.json"))]
    assert [trial.value for trial in trials(tmp_path / "s")] == [summary["val/mse"] for summary in summaries]
    assert len(summaries) == 3
