"""Sweep files: every form of parameter, wrong entries, and YAML."""

import math
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from ae import InputError
from ae.cli import parse
from ae.sweeps import Parameter, read_sweep
from tests.helpers import ROOT
from tests.helpers.sweep_files import write_sweep

FILES = sorted((ROOT / "experiments/sweeps").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_read_sweep_reads_bundled_files(path: Path) -> None:
    sweep = read_sweep(path)
    content = yaml.safe_load(path.read_text())
    assert content["command"] == ["${env}", "${interpreter}", "-m", sweep.module, "${args}"]
    assert (ROOT / content["program"]).exists()
    assert sweep.name == path.stem
    seen: set[str] = set()
    for point in sweep.grid() if sweep.method == "grid" else []:
        values = {repr(item) for item in point.items()}
        if values - seen:  # each value of each parameter once
            parse(sweep.config_type(), sweep.arguments(point))
        seen |= values


def test_read_sweep_reads_parameters_of_every_form(tmp_path: Path) -> None:
    parameters = {
        "hill": {"parameters": {"x": {"min": 0.5, "max": 2.0}, "is_steep": {"values": [True, False]}}},
        "hill.sizes": {"values": [[1, 2], [3]]},
        "seconds": {"value": 0.25},
    }
    sweep = read_sweep(write_sweep(tmp_path / "a.yaml", method="random", run_cap=4, parameters=parameters))
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
    ("spec", "expected"),
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
def test_parameter_distribution_is_optunas(tmp_path: Path, spec: dict[str, Any], expected: Any) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "a.yaml", method="random", parameters={"hill.x": spec}))
    assert sweep.parameters["hill.x"].distribution() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
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
            "a grid of 8,000,000 points: at most 10,000 are allowed; use method random",
        ),
    ],
)
def test_read_sweep_refuses_wrong_entries_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_sweep(write_sweep(tmp_path / "a.yaml", **changes))
    assert str(error.value).startswith(f"{tmp_path}/a.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
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
        ({"min": 0, "max": 2, "q": 1}, "has q, which needs the distribution q_uniform"),
        ({"min": 0, "max": 2, "distribution": ["uniform"]}, "distribution must be uniform"),
    ],
)
def test_read_sweep_refuses_invalid_ranges(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    path = write_sweep(tmp_path / "a.yaml", method="random", parameters={"hill.x": spec})
    with pytest.raises(InputError, match=message) as error:
        read_sweep(path)
    assert str(error.value).startswith(f"{path}: parameter hill.x ")


def test_read_sweep_checks_every_value_and_both_ends_of_a_range(tmp_path: Path) -> None:
    whole = {"hill.sizes": {"values": [[1], [2], [3]]}, "hill.x": {"value": 1}}
    many = {"hill.x": {"values": [float(i) for i in range(20)]}, "seconds": {"values": [0.0, "long"]}}
    for parameters in (many, {"hill.sizes": {"values": [[1], [2], [3, "x"]]}}):
        with pytest.raises(InputError, match=r"--(seconds|hill\.sizes) must be "):
            read_sweep(write_sweep(tmp_path / "a.yaml", parameters=parameters))
    assert read_sweep(write_sweep(tmp_path / "a.yaml", parameters=whole)).grid_size == 3
    uniform = {"hill.sizes": {"min": 1, "max": 4, "distribution": "uniform"}}
    with pytest.raises(InputError, match=r"--hill\.sizes must be a sequence"):  # a flag of whole numbers
        read_sweep(write_sweep(tmp_path / "a.yaml", method="random", parameters=uniform))


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
    ("content", "message"),
    [
        (LAUGHS.encode(), "line 6: more than 100,000 values after the expansion of aliases"),
        (b"a: &a [*a]", "line 1: an alias refers to a node that contains it"),
        (b"method: grid\nmethod: random\n", "line 1: the key method is there twice"),
        (b"a: {b: 1, b: 2}", "line 1: the key b is there twice"),
        (b"[" * 1200, "nested too deeply"),
        (b"name: \xff\xfe", "it must be text in UTF-8"),
        (b"a: \x00", "can't read it"),
        (b"a: !!python/object/apply:os.system [ls]", "can't read it"),
        (b"a: !!timestamp 5", "can't read it"),
        (b"a: !!bool maybe", "can't read it"),
        (b"a: " + b"9" * 5000, "can't read it"),
        (b"method: grid\n" + b"#" * 1_000_000, "has more than 1,000,000 bytes"),
        (b"\x1f\x8b\x08", "can't read"),
    ],
)
def test_read_sweep_refuses_invalid_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_sweep(tmp_path / "a.yaml")
    assert str(error.value).removeprefix("can't read ").startswith(f"{tmp_path}/a.yaml: ")
    assert "\n" not in str(error.value)


def test_read_sweep_opens_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match=rf"^can't read {path}: it must be a file"):
            read_sweep(path)


@pytest.mark.parametrize("content", ["a: [", "- a\n- b", ""])
def test_read_sweep_refuses_other_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=r"can't read|not a sweep file"):
        read_sweep(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="can't read"):
        read_sweep(tmp_path / "nothing.yaml")
