"""Searches: their files, studies that are shared, killed and taken up again, and W&B's own agent."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from ae import InputError
from ae.cli import parse
from ae.compare import compare, read_runs
from ae.runs.folder import is_running, read_config, read_history
from ae.sweeps import Parameter, Study, Sweep, read_sweep
from experiments import sweep as experiment
from tests.helpers import ROOT
from tests.helpers.tracked import slow
from tests.helpers.wandb_server import WandbServer

FILES = sorted((ROOT / "experiments/sweeps").glob("*.yaml"))
HILL = {
    "program": "tests/helpers/hill.py",
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"hill.x": {"values": [0.0, 1.0, 3.0]}},
}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**HILL, **changes}, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def _finds_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


# Files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_that_come_with_it_can_be_read(path: Path) -> None:
    sweep = read_sweep(path)
    content = yaml.safe_load(path.read_text())
    assert content["command"] == ["${env}", "${interpreter}", "-m", sweep.module, "${args}"]
    assert (ROOT / content["program"]).exists()
    assert sweep.name == path.stem
    if sweep.method == "grid":
        for point in sweep.grid():
            parse(sweep.config_type(), sweep.arguments(point))


def test_parameters_in_every_form(tmp_path: Path) -> None:
    parameters = {
        "hill": {"parameters": {"x": {"min": 0.5, "max": 2.0}, "is_steep": {"values": [True, False]}}},
        "hill.sizes": {"values": [[1, 2], [3]]},
        "seconds": {"value": 0.25},
    }
    sweep = read_sweep(write(tmp_path / "a.yaml", method="random", run_cap=4, parameters=parameters))
    assert (sweep.name, sweep.module, sweep.runs) == ("a", "tests.helpers.hill", 4)
    assert sweep.parameters == {
        "hill.x": Parameter(low=0.5, high=2.0),
        "hill.is_steep": Parameter((True, False)),
        "hill.sizes": Parameter(([1, 2], [3])),
        "seconds": Parameter((0.25,)),
    }
    point = {"hill.x": 1.5, "hill.is_steep": True, "hill.sizes": [1, 2], "seconds": 0.25}
    config: Any = parse(sweep.config_type(), sweep.arguments(point))
    assert (config.hill.x, config.hill.is_steep, config.hill.sizes, config.seconds) == (1.5, True, (1, 2), 0.25)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"min": 1, "max": 8}, optuna.distributions.IntDistribution(1, 8)),
        ({"min": 1, "max": 7, "distribution": "q_uniform", "q": 2}, optuna.distributions.IntDistribution(1, 7, step=2)),
        ({"min": 1.0, "max": 8}, optuna.distributions.FloatDistribution(1, 8)),
        (
            {"min": 1.0, "max": 8.0, "distribution": "log_uniform_values"},
            optuna.distributions.FloatDistribution(1, 8, log=True),
        ),
        (
            {"min": 0, "max": 1, "distribution": "q_uniform", "q": 0.3},
            optuna.distributions.FloatDistribution(0, 0.9, step=0.3),
        ),
        ({"values": [1, 2.5]}, optuna.distributions.CategoricalDistribution(["1", "2.5"])),
    ],
)
def test_distributions(tmp_path: Path, said: dict[str, Any], expected: Any) -> None:
    sweep = read_sweep(write(tmp_path / "a.yaml", method="random", parameters={"hill.x": said}))
    assert sweep.parameters["hill.x"].distribution() == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parameters": {"hill.y": {"value": 1}}}, "unknown parameter hill.y; the nearest is hill.x"),
        ({"parameters": {"zzzzzzz": {"value": 1}}}, "unknown parameter zzzzzzz$"),
        ({"parameters": {}}, "the search space is empty"),
        ({"parameters": {"hill.x": {"values": []}}}, "parameter hill.x has no values to choose from"),
        ({"parameters": {"hill.x": {"min": 2, "max": 1}}}, "no values to choose from: min 2 is above max 1"),
        ({"parameters": {"hill.x": {"min": 2}}}, "must have value, values, or min and max"),
        ({"parameters": {"hill.x": 3}}, "must have value, values, or min and max"),
        ({"parameters": {"hill.x": {"min": 1, "max": 2}}}, "a grid needs value or values for hill.x"),
        ({"parameters": {"hill.x": {"values": ["high"]}}}, "hill.x"),
        (
            {"method": "random", "parameters": {"hill.x": {"min": 1, "max": 2, "distribution": "normal"}}},
            "distribution must be uniform, int_uniform, log_uniform_values or q_uniform, got normal",
        ),
        ({"method": "guess"}, "method must be grid, random or bayes, got guess"),
        ({"metric": {"name": "val/loss"}}, "metric needs a name that begins with val/, and a goal"),
        ({"metric": {"name": "loss", "goal": "minimize"}}, "metric needs a name that begins with val/"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate's type must be hyperband, got envelope"),
        ({"metod": "grid"}, "unknown key metod; the nearest is method"),
        ({"program": "experiments/nothing.py"}, "no experiment experiments.nothing"),
        ({"program": None}, "program is missing"),
        ({"program": 5}, "program is missing"),
        ({"program": "../elsewhere.py"}, "program must be a module's file below this folder"),
        ({"program": "/tmp/elsewhere.py"}, "program must be a module's file below this folder"),
        ({"program": "json/__init__.py"}, "no experiment json.__init__"),
        ({"command": "python -m tests.helpers.hill"}, "command must be a list of words"),
        ({"command": ["-m"], "program": None}, "program is missing"),
        ({"name": "../s"}, "name must be the name of a folder, of at most 128 characters, got '../s'"),
        ({"name": "s" * 280}, "name must be the name of a folder"),
        ({"name": ["s"]}, "name must be the name of a folder"),
        ({"metric": 5}, "metric must have goal, name, got 5"),
        ({"metric": {"name": "val/loss", "goal": "minimize", "target": 1}}, "unknown key target of metric"),
        ({"run_cap": "many"}, "run_cap must be a positive whole number, got 'many'"),
        ({"run_cap": 0}, "run_cap must be positive, got 0"),
        ({"run_cap": True}, "run_cap must be a positive whole number, got True"),
        ({"early_terminate": [1]}, "early_terminate must have eta, min_iter, type"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 0.5}},
            "early_terminate's min_iter must be a positive whole number, got 0.5",
        ),
        ({"early_terminate": {"type": "hyperband", "eta": 1}}, "early_terminate's eta must be 2 or more, got 1"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "unknown key max_iter of early_terminate"),
        ({"parameters": [1]}, "parameters must have parameters by name"),
        ({"parameters": {"hill": {"parameters": 5}}}, "hill must have parameters by name, got 5"),
        (
            {"parameters": {"hill": {"parameters": {"x": {"value": 1}}}, "hill.x": {"value": 2}}},
            "hill.x is there twice",
        ),
        ({"parameters": {"hill.x": {"values": 64}}}, "parameter hill.x needs a list of values, got 64"),
        ({"parameters": {"hill.x": {"values": "64"}}}, "parameter hill.x needs a list of values, got '64'"),
        ({"parameters": {"hill.x": {"values": [1, 1]}}}, "parameter hill.x has the value 1 twice"),
        ({"parameters": {"hill.x": {"values": [1, math.nan]}}}, "has a value that no flag can have"),
        ({"parameters": {"hill.x": {"values": [1.0, "high"]}}}, "--hill.x must be a number, got 'high'"),
        ({"parameters": {"hill.x": {"value": 1, "values": [2]}}}, "must have value, values, or min and max"),
        ({"parameters": {"hill.x": {"value": 1, "distribution": "uniform"}}}, "must have min and max where it has q"),
        ({"parameters": {"hill.x": {"mu": 1, "sigma": 2}}}, "parameter hill.x has the unknown key mu"),
        ({"parameters": {"run.dir": {"value": "x"}}}, "unknown parameter run.dir; the study itself sets it"),
        ({"parameters": {"hill.sizes": {"values": [[1], ["--help"]]}}}, "would not run"),
        (
            {"parameters": {name: {"values": list(range(200))} for name in ("hill.x", "seconds", "hill.sizes")}},
            "a grid of 8,000,000 points: at most 10,000 are gone through; take method random",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_gets_one_clear_line(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        read_sweep(write(tmp_path / "a.yaml", **changes))
    assert str(error.value).startswith(f"{tmp_path}/a.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"min": 1, "max": 1}, "has no values to choose from: min equals max; write value: 1"),
        ({"min": "1", "max": 2}, "needs a finite number for min, got '1'"),
        ({"min": 1, "max": math.inf}, "needs a finite number for max, got inf"),
        ({"min": math.nan, "max": 2}, "needs a finite number for min, got nan"),
        ({"min": True, "max": 2}, "needs a finite number for min, got True"),
        ({"min": -1e308, "max": 1e308}, "has a range that is too large"),
        ({"min": 1, "max": 10**400}, "has a huge max"),
        ({"min": 1, "max": 10**30}, r"needs a max of at most 2\^53"),
        ({"min": 0.5, "max": 2, "distribution": "int_uniform"}, "needs whole numbers for int_uniform, got 0.5 and 2"),
        ({"min": 0, "max": 2, "distribution": "log_uniform_values"}, "needs a positive min for log_uniform_values"),
        ({"min": 0, "max": 2, "distribution": "q_uniform", "q": 0}, "needs a q above 0 and up to max - min, got 0"),
        ({"min": 0, "max": 2, "distribution": "q_uniform", "q": -1}, "needs a q above 0"),
        ({"min": 0, "max": 2, "distribution": "q_uniform", "q": 3}, "needs a q above 0"),
        ({"min": 0, "max": 2, "distribution": "q_uniform", "q": "x"}, "needs a finite number for q, got 'x'"),
        ({"min": 0, "max": 2, "q": 1}, "has a q, which takes the distribution q_uniform"),
        ({"min": 0, "max": 2, "distribution": ["uniform"]}, "distribution must be uniform"),
    ],
)
def test_read_sweep_refuses_ranges_that_cannot_be_drawn_from(
    tmp_path: Path, said: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "a.yaml", method="random", parameters={"hill.x": said})
    with pytest.raises(InputError, match=complaint) as error:
        read_sweep(path)
    assert str(error.value).startswith(f"{path}: parameter hill.x ")


def test_read_sweep_checks_every_value_and_both_ends_of_a_range(tmp_path: Path) -> None:
    whole = {"hill.sizes": {"values": [[1], [2], [3]]}, "hill.x": {"value": 1}}
    many = {"hill.x": {"values": [float(i) for i in range(20)]}, "seconds": {"values": [0.0, "long"]}}
    for parameters in (many, {"hill.sizes": {"values": [[1], [2], [3, "x"]]}}):
        with pytest.raises(InputError, match=r"--(seconds|hill\.sizes) must be "):
            read_sweep(write(tmp_path / "a.yaml", parameters=parameters))
    assert read_sweep(write(tmp_path / "a.yaml", parameters=whole)).grid_size == 3
    uniform = {"hill.sizes": {"min": 1, "max": 4, "distribution": "uniform"}}
    with pytest.raises(InputError, match=r"--hill\.sizes must be a sequence"):  # a flag of whole numbers
        read_sweep(write(tmp_path / "a.yaml", method="random", parameters=uniform))


# Texts that a writer of YAML would not write


def write_text(path: Path, parameters: str, before: str = "") -> Path:
    head = "program: tests/helpers/hill.py\nmethod: random\nmetric: {name: val/loss, goal: minimize}\n"
    path.write_text(f"{before}{head}parameters:\n{parameters}\n")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{min: 1e-4, max: 1e-2}", Parameter(low=1e-4, high=1e-2)),
        ("{min: 1E-4, max: +1.e-2}", Parameter(low=1e-4, high=1e-2)),
        ("{min: -.5, max: 5e0}", Parameter(low=-0.5, high=5.0)),
        ("{min: 010, max: 1_000}", Parameter(low=10, high=1000, is_integer=True)),
        ("{min: 0x10, max: 0o100}", Parameter(low=16, high=64, is_integer=True)),
        ("{values: [1e-4, 1e-3]}", Parameter((1e-4, 1e-3))),
    ],
)
def test_read_sweep_reads_numbers_as_yaml_1_2(tmp_path: Path, text: str, expected: Parameter) -> None:
    sweep = read_sweep(write_text(tmp_path / "a.yaml", f"  hill.x: {text}"))
    assert sweep.parameters["hill.x"] == expected
    assert [type(value) for value in sweep.parameters["hill.x"].examples()] == [type(v) for v in expected.examples()]


def test_read_sweep_reads_anchors(tmp_path: Path) -> None:
    sweep = read_sweep(write_text(tmp_path / "a.yaml", "  hill.x: &a {values: [1.0, 2.0]}\n  seconds: *a"))
    assert sweep.parameters["seconds"] == Parameter((1.0, 2.0))


LAUGHS = "a0: &a0 [0, 0]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (LAUGHS.encode(), "line 6: more than 100,000 values, as often as aliases repeat them"),
        (b"a: &a [*a]", "line 1: an alias is within what it stands for"),
        (b"method: grid\nmethod: random\n", "line 1: the key method is there twice"),
        (b"a: {b: 1, b: 2}", "line 1: the key b is there twice"),
        (b"[" * 1200, "nested too deeply"),
        (b"name: \xff\xfe", "it is no text in UTF-8"),
        (b"a: \x00", "can't read it"),
        (b"a: !!python/object/apply:os.system [ls]", "can't read it"),
        (b"a: !!timestamp 5", "can't read it"),
        (b"a: !!bool maybe", "can't read it"),
        (b"a: " + b"9" * 5000, "can't read it"),
        (b"method: grid\n" + b"#" * 1_000_000, "has more than 1,000,000 bytes"),
        (b"\x1f\x8b\x08", "can't read it"),
    ],
)
def test_read_sweep_refuses_texts_that_are_no_plain_yaml(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        read_sweep(tmp_path / "a.yaml")
    assert str(error.value).startswith(f"{tmp_path}/a.yaml: ")
    assert "\n" not in str(error.value)


def test_read_sweep_opens_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="no regular file"):
            read_sweep(path)


@pytest.mark.parametrize("content", ["a: [", "- a\n- b", ""])
def test_a_file_that_is_no_sweep(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=r"can't read|is no sweep"):
        read_sweep(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="can't read"):
        read_sweep(tmp_path / "nothing.yaml")


# Studies


def hill(folder: Path, **changes: Any) -> Sweep:
    return read_sweep(write(folder.with_suffix(".yaml"), **changes))


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def states(folder: Path) -> Counter[str]:
    return Counter(trial.state.name for trial in trials(folder))


def test_a_grid_is_gone_through_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    path = write(tmp_path / "s.yaml", parameters={**HILL["parameters"], "hill.sizes": {"values": [[1, 2]]}})  # type: ignore[dict-item]
    experiment.main(experiment.Config(path, folder, wandb="disabled"))
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "trial 1  val/loss 1.2  hill.x=1.0 hill.sizes=[1, 2]"
    assert shown[3].split() == ["runs", "x", "val/loss"]
    assert shown[7].startswith("Can't be told: best by val/loss is x 1")
    assert shown[8:] == [
        "best trial 1  val/loss 1.2  hill.x=1.0 hill.sizes=[1, 2]",
        f"     {folder}/trial-0001",
        f"look python -m experiments.compare {folder} --html {folder}.html",
    ]
    assert (compare(read_runs([str(folder)])).sort, compare(read_runs([str(folder)])).maximize) == ("val/loss", False)
    assert [run.config["hill.x"] for run in read_runs([str(folder)])] == [0, 1, 3]
    assert [trial.value for trial in trials(folder)] == pytest.approx([4.2, 1.2, 1.2])
    assert {read_config(folder / f"trial-000{i}")["config"]["run"]["group"] for i in range(3)} == {"s"}
    Study(read_sweep(path), folder).work()  # there is nothing left
    assert states(folder) == {"COMPLETE": 3}


@pytest.mark.slow
def test_a_diverged_or_refused_trial_fails_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    said: list[str] = []
    sweep = hill(folder, parameters={"hill.x": {"values": [1e300, 1.0]}})  # its square is infinite
    Study(sweep, folder).work(["--run.wandb=disabled"], said.append)
    assert states(folder) == {"FAIL": 1, "COMPLETE": 1}
    assert said[0].startswith(f"trial 0  failed, see {folder}/trial-0000.log")
    Study(sweep, folder).work(["--run.wandb=disabled"], said.append)
    assert len(said) == 2


@pytest.mark.slow
def test_hopeless_trials_are_stopped_early(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    parameters = {"hill.x": {"values": [2.0, 9.0]}, "seconds": {"value": 0.4}}
    sweep = hill(folder, parameters=parameters, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    Study(sweep, folder).work(["--run.wandb=disabled"])
    found = trials(folder)
    assert found[0].state.name == "COMPLETE"
    assert found[1].state.name == "PRUNED"
    assert len(read_history(folder / "trial-0001")) < 5
    assert not is_running(folder / "trial-0001")
    assert [run.state for run in read_runs([str(folder)])] == ["finished", "stopped"]


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[sweep\]'"):
        Study(hill(tmp_path / "s"), tmp_path / "s")


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    with pytest.raises(InputError, match="holds another sweep"):
        Study(hill(folder, parameters={"hill.x": {"values": [7.0]}}), folder)


@pytest.mark.parametrize("content", ["", "[", "[]", "5", '{"name": "s"}', "[" * 100_000])
def test_study_names_a_description_that_is_damaged(tmp_path: Path, content: str) -> None:
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
def test_study_names_a_journal_that_is_damaged(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "s"
    Study(hill(folder), folder)
    with open(folder / "study.log", "a") as log:
        log.write(f"{line}\n")
    with pytest.raises(InputError, match=r"s/study\.log") as error:
        Study(hill(folder), folder)
    assert "\n" not in str(error.value)


def test_study_survives_an_entry_that_a_kill_has_cut_off(tmp_path: Path) -> None:
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
    (folder / "study.log").write_bytes(whole[: len(whole) - 30])  # cut off while the points of the grid were written
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


def test_sweep_says_where_no_trial_came_to_a_value(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", parameters={"hill.x": {"value": 1.0}})
    study = Study(read_sweep(path), tmp_path / "s")
    claimed = study._claim()
    assert claimed is not None
    study._study.tell(claimed[0], state=optuna.trial.TrialState.FAIL)
    claimed[1].release()
    with pytest.raises(InputError, match=r"no trial of .*/s has a value of val/loss: see the trials' logs"):
        experiment.main(experiment.Config(path, tmp_path / "s", wandb="disabled"))


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_what_is_drawn_is_a_function_of_the_trials_before(tmp_path: Path, method: str) -> None:
    drawn = []
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
        drawn.append(values)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def start(path: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "experiments.sweep", str(path), f"--dir={folder}", "--wandb=disabled"]
    with open(path.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
        )


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def every_run_is_whole(folder: Path, points: Iterable[Any]) -> None:
    """Each point has been run once, and each run has logged each step once."""
    runs = read_runs([str(folder)])
    assert sorted(run.config["hill.x"] for run in runs) == sorted(points)
    assert states(folder) == {"COMPLETE": len(runs)}
    for run in runs:
        assert [row["step"] for row in run.history] == [1, 2, 3, 4, 5], run.name


@pytest.mark.parametrize("orphaned", [slow(False), slow(True)])
def test_a_killed_study_goes_on_with_no_trial_lost_or_doubled(tmp_path: Path, orphaned: bool) -> None:
    """The worker is killed, with its trial or without."""
    folder = tmp_path / "s"
    path = write(tmp_path / "s.yaml", parameters={"hill.x": {"values": [0.0, 3.0]}, "seconds": {"value": 0.3}})
    worker = start(path, folder)
    wait_for(lambda: len(read_history(folder / "trial-0000")) >= 2)
    worker.kill()
    worker.wait()
    if not orphaned:
        listed = subprocess.run(["pgrep", "-f", f"run.dir={folder}/trial-0000"], capture_output=True, text=True)
        os.kill(int(listed.stdout), signal.SIGKILL)
        wait_for(lambda: not is_running(folder / "trial-0000"))
    Study(read_sweep(path), folder).work(["--run.wandb=disabled"])
    every_run_is_whole(folder, [0, 3])


@pytest.mark.slow
def test_several_processes_share_one_study(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    points = [float(i) for i in range(8)]
    path = write(tmp_path / "s.yaml", parameters={"hill.x": {"values": points}, "seconds": {"value": 0.1}})
    workers = [start(path, folder) for _ in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    every_run_is_whole(folder, points)


@pytest.mark.slow
def test_sigterm_stops_the_worker_and_its_trial(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    path = write(tmp_path / "s.yaml", parameters={**HILL["parameters"], "seconds": {"value": 0.4}})  # type: ignore[dict-item]
    for number in (signal.SIGTERM, signal.SIGINT):
        worker = start(path, folder)
        wait_for(lambda: any(is_running(trial) for trial in folder.glob("trial-????")))
        time.sleep(1)
        worker.send_signal(number)
        assert worker.wait(timeout=30) == 128 + number
        assert not any(is_running(trial) for trial in folder.glob("trial-????"))
    assert start(path, folder).wait(timeout=90) == 0
    every_run_is_whole(folder, [0, 1, 3])


# W&B's own


@pytest.mark.slow
def test_wandbs_agent_runs_a_sweep(server: WandbServer, tmp_path: Path) -> None:
    """With nested values, lists and a boolean, through W&B's own programs."""
    hill_parameters = {"x": {"values": [1.0, 3.0]}, "sizes": {"value": [4, 5]}, "is_steep": {"value": True}}
    command = ["${env}", sys.executable, "-m", "tests.helpers.hill", "${args}"]
    parameters = {"hill": {"parameters": hill_parameters}, "seconds": {"value": 0.0}}
    path = write(tmp_path / "a.yaml", command=command, parameters=parameters)
    made = subprocess.run(
        [sys.executable, "-m", "wandb", "sweep", "--project=swept", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"wandb agent (\S+)", made.stderr)
    assert found is not None, made.stderr
    with open(tmp_path / "agent.log", "w") as log:
        agent = [sys.executable, "-m", "wandb", "agent", found[1]]
        subprocess.run(agent, stdout=log, stderr=log, check=True, timeout=120)
    runs = list(server.store.runs.values())
    assert len(runs) == 2, (tmp_path / "agent.log").read_text()
    assert [run.summary["val/loss"] for run in runs] == pytest.approx([1.2, 1.2])
    for run, x in zip(runs, (1, 3), strict=True):
        assert (run.project, run.state, len(run.rows)) == ("swept", "finished", 5)
        assert run.config["hill"]["value"] == {"x": x, "sizes": [4, 5], "is_steep": True}
        assert run.config["seconds"]["value"] == 0


@pytest.mark.slow
def test_the_main_job_is_searched(tmp_path: Path) -> None:
    small = {"data.limit": 256, "data.validation": 64, "recipe.steps": 4, "recipe.evaluate_every": 2}
    parameters = {name: {"value": value} for name, value in small.items()} | {
        "model.channels": {"values": [[4], [4, 8]]},
        "model.norm": {"values": [True, False]},
        "recipe.lr": {"min": 0.01, "max": 0.1, "distribution": "log_uniform_values"},
    }
    metric = {"name": "val/mse", "goal": "minimize"}
    changes = {"method": "bayes", "run_cap": 3, "metric": metric, "parameters": parameters}
    path = write(tmp_path / "s.yaml", program="experiments/joint.py", **changes)
    experiment.main(experiment.Config(path, tmp_path / "s", wandb="offline"))
    assert len(list((tmp_path / "s/wandb").glob("offline-run-*"))) == 3  # as `wandb leet` shows them side by side
    summaries = [json.loads(file.read_text()) for file in sorted((tmp_path / "s").glob("*/summary.json"))]
    assert [trial.value for trial in trials(tmp_path / "s")] == [summary["val/mse"] for summary in summaries]
    assert len(summaries) == 3
