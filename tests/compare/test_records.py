"""Runs read from folders and W&B, broken and hostile ones, too."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ae import InputError, Run, RunConfig
from ae.compare import compare, read_runs
from experiments.joint import Config as Joint
from tests.helpers.compared import log, make_run
from tests.helpers.wandb_server import WandbServer


def test_read_runs_reads_every_part_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5, "seconds": 3.0}, seed=2, latent=16)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.name, run.where, run.state, run.step) == ("a", str(tmp_path / "a"), "finished", 3)
    assert run.config["experiment"] == "joint"
    assert (run.config["model.latent"], run.config["model.channels"], run.config["recipe.seed"]) == (16, [32, 64], 2)
    best = {"best/val/mse": 0.1 / 3, "best/val/accuracy": 0.75}
    assert run.metrics == {"test/mse": 0.5, "seconds": 3.0, **best}
    assert len(run.history) == 3
    assert run.picture == (tmp_path / "a/reconstructions.png").read_bytes()


def test_read_runs_finds_each_run_once_in_subfolders_and_globs(tmp_path: Path) -> None:
    for name in ("b", "a", "study/t1", "study/t2"):
        make_run(tmp_path / name, {"test/mse": 0.5})
    (tmp_path / "notes").mkdir()
    runs = read_runs([f"{tmp_path}/study/t?", str(tmp_path)])
    assert [run.name for run in runs] == ["t1", "t2", "a", "b"]


def test_read_runs_reads_state_and_step(tmp_path: Path) -> None:
    make_run(tmp_path / "stopped", steps=4)
    make_run(tmp_path / "resumed", {"test/mse": 0.5}, steps=4)
    with Run("joint", RunConfig(resume=tmp_path / "resumed", wandb="disabled")) as run:
        log(run, range(5, 8))
    with Run("joint", RunConfig(dir=tmp_path / "running", wandb="disabled")) as run:
        log(run, range(1, 3))
        runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: (run.state, run.step) for name, run in runs.items()} == {
        "stopped": ("stopped", 4),
        "resumed": ("stopped", 7),
        "running": ("running", 2),
    }
    assert runs["resumed"].metrics.keys() == {
        "val/mse",
        "val/accuracy",
        "val/accuracy/3",
        "best/val/mse",
        "best/val/accuracy",
    }
    assert runs["resumed"].metrics["val/mse"] == 0.1 / 7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"test/mse": '])
def test_read_runs_omits_a_broken_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/summary.json").write_text(content)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.metrics["val/mse"]) == ("stopped", 0.1 / 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"can't read {tmp_path}/a/summary.json: ")
    assert line.endswith("; going on without it")


@pytest.mark.parametrize("content", ["nonsense", "5", "{}"])
def test_read_runs_omits_a_broken_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/history.jsonl").write_text(f'{{"step": 1}}\n{content}\n')
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.history, run.metrics["test/mse"]) == ("finished", [], 0.5)
    assert "history.jsonl" in capsys.readouterr().err


def write_run(folder: Path, **files: Any) -> Path:
    """Write a run's folder, with some of its files replaced by other JSON or bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "config": {"experiment": "joint", "id": folder.name, "config": {"recipe": {"seed": 0}}},
        "history": {"step": 1, "val/mse": 0.5},
        "summary": {"step": 1, "test/mse": 0.25},
    }
    for name, content in {**whole, **files}.items():
        path = folder / f"{name}.{'jsonl' if name == 'history' else 'json'}"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n")
    return folder


DEEP = b'{"experiment": "x", "id": "a", "config": ' + b'{"a": ' * 500 + b"1" + b"}" * 501
DAMAGES: dict[str, dict[str, Any]] = {
    "config of nothing": {"config": b""},
    "config of zeros": {"config": b"\0" * 100},
    "config that is no object": {"config": b"5"},
    "config without its parts": {"config": {"experiment": "x"}},
    "config whose config is a list": {"config": {"experiment": "x", "id": "a", "config": [1]}},
    "config not in UTF-8": {"config": b'{"experiment": "\xff"}'},
    "config of a huge number": {"config": b'{"experiment": "x", "id": "a", "config": {"a": ' + b"9" * 5000 + b"}}"},
    "config nested deeply": {"config": DEEP},
    "config nested very deeply": {"config": b"[" * 100_000},
}


@pytest.mark.parametrize("files", DAMAGES.values(), ids=DAMAGES)
def test_read_runs_skips_a_run_without_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, Any], unhooked: None
) -> None:
    write_run(tmp_path / "bad", **files)
    with pytest.raises(InputError, match=r"can be read: .*bad/config") as error:
        read_runs([str(tmp_path)])
    assert "\n" not in str(error.value)
    write_run(tmp_path / "good")
    assert [run.name for run in read_runs([str(tmp_path)])] == ["good"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipping a run: ")
    assert f"{tmp_path}/bad/config.json" in line


def test_read_runs_opens_regular_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "history.jsonl", "summary.json", "reconstructions.png"):
        folder = write_run(tmp_path / name)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: (run.state, len(run.history), run.picture) for name, run in runs.items()} == {
        "history.jsonl": ("finished", 0, None),
        "summary.json": ("stopped", 1, None),
        "reconstructions.png": ("finished", 1, None),
    }
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 4
    assert (
        lines[-1]
        == f"skipping a run: can't read {tmp_path}/config.json/config.json: it must be a file, and is a named pipe"
    )


@pytest.mark.parametrize(
    ("files", "metrics"),
    [
        ({"history": {"step": "one", "val/mse": 1}}, {"test/mse": 0.25}),
        ({"history": {"step": None}}, {"test/mse": 0.25}),
        ({"history": b'{"step": NaN}\n'}, {"test/mse": 0.25}),
        ({"history": {"step": 1, "val/mse": "low", "val/psnr": True, "x": [1]}}, {"test/mse": 0.25}),
        ({"summary": {"step": "one", "test/mse": 1}}, {"val/mse": 0.5, "best/val/mse": 0.5}),
        ({"summary": {"step": None, "test/mse": 1}}, {"val/mse": 0.5, "best/val/mse": 0.5}),
        ({"summary": {"test/mse": "1", "test/psnr": True, "test/x": None, "test/y": [1], "test/z": 2}}, {"test/z": 2}),
        ({"summary": b'{"test/mse": 1' + b"0" * 400 + b', "test/z": 2}'}, {"test/z": 2}),
        ({"summary": b"[" * 100_000}, {"val/mse": 0.5, "best/val/mse": 0.5}),
    ],
)
def test_read_runs_takes_numbers_only(
    tmp_path: Path, files: dict[str, Any], metrics: dict[str, float], unhooked: None
) -> None:
    (run,) = read_runs([str(write_run(tmp_path / "a", **files))])
    assert run.metrics == metrics


def test_read_runs_reports_an_invalid_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(tmp_path / "a") / "reconstructions.png").write_bytes(b"GIF89a")
    assert read_runs([str(tmp_path)])[0].picture is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"can't read {tmp_path}/a/reconstructions.png: it is not a PNG; going on without it"


def test_read_runs_reads_the_goal_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, loss in enumerate((3.0, 1.0)):
        summary = {"step": 1, "val/loss": loss, "val/mse": 1 / loss, "test/mse": 1.0}
        config = {"experiment": "joint", "id": str(i), "config": {"lr": i}}
        write_run(tmp_path / f"s/trial-{i}", summary=summary, config=config)
    (tmp_path / "s/sweep.json").write_text(json.dumps({"metric": "val/loss", "maximize": True}))
    comparison = compare(read_runs([str(tmp_path)]))
    assert (comparison.sort, comparison.maximize) == ("val/loss", True)
    assert [run.name for run in comparison.runs] == ["trial-0", "trial-1"]
    by_error = compare(comparison.runs, sort="val/mse")
    assert (by_error.sort, by_error.maximize) == ("val/mse", False)
    write_run(tmp_path / "other")
    assert compare(read_runs([str(tmp_path)])).sort == "val/mse"  # one run is not a trial of the study
    (tmp_path / "s/sweep.json").write_text('{"metric": 5}')
    capsys.readouterr()
    assert compare(read_runs([str(tmp_path / "s")])).sort == "val/mse"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"can't read {tmp_path}/s/sweep.json: it must have metric")


def test_read_runs_from_wandb_equals_from_folders(server: WandbServer, tmp_path: Path) -> None:
    for name, group in (("a", "g"), ("b", "h")):
        with Run("joint", RunConfig(dir=tmp_path / name, project="p", group=group), Joint()) as run:
            log(run, range(1, 4))
            run.summarise({"test/mse": 0.5, "seconds": 2.0})
    interrupted = Run("joint", RunConfig(dir=tmp_path / "c", project="p", group="g"))
    log(interrupted, range(1, 3))
    interrupted.finish(130)
    local = {run.name: run for run in read_runs([str(tmp_path)])}
    remote = read_runs(["wandb:tester/p"])
    assert {run.name for run in remote} == {"a", "b", "c"}
    for there in remote:
        here = local[there.name]
        assert (there.state, there.step, there.history) == (here.state, here.step, here.history)
        assert there.config == ({"experiment": "joint"} if there.name == "c" else here.config)
        assert there.metrics.items() >= here.metrics.items() - {("val/accuracy/3", 0.5)}
    assert {run.name for run in read_runs(["wandb:tester/p/g"])} == {"a", "c"}


@pytest.mark.slow
def test_read_runs_from_wandb_includes_pictures(server: WandbServer, tmp_path: Path) -> None:
    from PIL import Image

    from ae.tracking.media import Media

    with Run("joint", RunConfig(dir=tmp_path / "a", project="p")) as run:
        run.summarise({"test/mse": 0.5}, Media({"reconstructions": Image.new("RGB", (9, 9))}))
    (remote,) = read_runs(["wandb:tester/p"])
    assert remote.picture == (tmp_path / "a/reconstructions.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no run in nowhere, which does not exist"),
        (".", "no run in .: give a run's folder, one that holds such folders, or a glob"),
        ("x*", "no run in x*, which does not exist"),
        ("wandb:alone", "wandb:alone names no project"),
    ],
)
def test_read_runs_refuses_sources_without_a_run(source: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_runs([source])


def test_read_runs_refuses_an_unknown_wandb_project(server: WandbServer) -> None:
    with pytest.raises(InputError, match="wandb:tester/nothing"):
        read_runs(["wandb:tester/nothing"])
