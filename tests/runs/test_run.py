import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from PIL import Image
from torch import nn

from ae import InputError, Recipe, Run, RunConfig
from ae.runs.folder import read_config, read_history, read_summary, to_json
from ae.tracking.media import Media, Table
from tests.helpers import ROOT


@dataclass(frozen=True)
class Config:
    size: tuple[int, ...] = (1, 2)
    place: Path = Path("here")
    run: RunConfig = RunConfig()


def test_run_names_folder_after_experiment(tmp_path: Path) -> None:
    run = Run("joint", RunConfig(wandb="disabled"), Config())
    assert run.folder.parent == Path("runs")
    assert run.folder.name.startswith("joint-")
    assert run.folder.name.endswith(run.id)
    assert read_config(run.folder) == {
        "version": version("ae"),
        "experiment": "joint",
        "id": run.id,
        "config": {
            "size": [1, 2],
            "place": str(Path.cwd() / "here"),
            "run": json.loads(json.dumps(asdict(RunConfig()))),
        },
    }


def test_run_writes_rows_weights_state_and_summary(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "a b/ü", wandb="disabled")) as run:
        run.log({"train/loss": 0.5}, 3, 0.25)
        run.log({"val/mse": 0.1, "val/psnr": 10.0}, 4, 0.5, {"reconstructions": Image.new("RGB", (4, 4))})
        run.log({"val/mse": 0.2, "val/psnr": 9.0}, 5, 0.75)
        run.save_state({"step": 4})
        run.save_weights("best", nn.Linear(1, 1))
        run.summarise({"test/mse": 0.2}, Media({"reconstructions": Image.new("RGB", (4, 4))}))
    assert run.history() == [
        {"step": 3, "epoch": 0.25, "train/loss": 0.5},
        {"step": 4, "epoch": 0.5, "val/mse": 0.1, "val/psnr": 10},
        {"step": 5, "epoch": 0.75, "val/mse": 0.2, "val/psnr": 9},
    ]
    summary = {"step": 5, "epoch": 0.75, "test/mse": 0.2, "best/val/mse": 0.1, "best/val/psnr": 10}
    assert json.loads((run.folder / "summary.json").read_text()) == summary
    assert run.load_state() == {"step": 4}
    assert {file.name for file in run.folder.iterdir()} == {
        ".lock",
        "best.safetensors",
        "config.json",
        "history.jsonl",
        "pictures",
        "reconstructions.png",
        "state.pt",
        "summary.json",
    }


def test_run_resumes_in_its_folder_with_its_id(tmp_path: Path) -> None:
    first = Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    for step in range(5):
        first.log({"train/loss": 1.0}, step, 0.0)
    with open(first.folder / "history.jsonl", "a") as history:
        history.write('{"step": 2, "ep')  # as a kill during a write leaves it
    first.finish()
    second = Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))
    second.rewind(2)
    second.log({"train/loss": 2.0}, 3, 0.0)
    assert [(row["step"], row["train/loss"]) for row in second.history()] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert second.id == first.id


def test_run_rejects_folder_of_another_run(tmp_path: Path) -> None:
    Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    before = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(InputError, match=r"already holds a run: continue it with --run.resume"):
        Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_run_rejects_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        Run("joint", RunConfig(dir=tmp_path / "file", wandb="disabled"))
    with pytest.raises(InputError, match=r"can't write in .*: Not a directory"):
        Run("joint", RunConfig(dir=tmp_path / "file/run", wandb="disabled"))


def test_run_rejects_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write everywhere: let the system call fail

        def refuse(self: Path, *args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=f"can't write in {folder}: Permission denied"):
        Run("joint", RunConfig(dir=folder, wandb="disabled"))
    assert not list(folder.iterdir())


def test_run_undoes_new_folder_on_input_error(tmp_path: Path) -> None:
    def attempt(where: RunConfig, config: dict[str, int]) -> None:
        with contextlib.suppress(InputError), Run("joint", where, config) as run:
            run.save_state({"step": 0})
            raise InputError("a batch that is too large")

    attempt(RunConfig(dir=tmp_path / "new", wandb="offline"), {})
    assert not (tmp_path / "new").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").touch()
    attempt(RunConfig(dir=tmp_path / "notes", wandb="offline"), {})
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_resumed_writes_nothing_before_rewind(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="offline"), {"recipe": Recipe(log_every=1)}) as run:
        run.log({"train/loss": 1.0}, 1, 0.0)
        run.save_state({"step": 1})
    wandb.teardown()  # W&B's process ends and writes no more
    before = contents(run.folder)
    with (
        contextlib.suppress(InputError),
        Run("joint", RunConfig(resume=run.folder, wandb="offline"), {"recipe": Recipe(log_every=2)}) as run,
    ):
        run.load_state()
        raise InputError("the state does not fit")
    assert contents(run.folder) == before
    with Run("joint", RunConfig(resume=run.folder, wandb="offline"), {"recipe": Recipe(log_every=2)}) as run:
        run.rewind(1)
    content = read_config(tmp_path / "run")
    assert content["config"]["recipe"]["log_every"] == 2
    assert content["changes"] == [{"recipe.log_every": [1, 2]}]


def test_run_finishes_with_143_on_sigterm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_codes = []
    monkeypatch.setattr(Run, "finish", lambda self, exit_code: exit_codes.append(exit_code))
    with pytest.raises(SystemExit) as stop, Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")):
        signal.raise_signal(signal.SIGTERM)
    assert (stop.value.code, exit_codes) == (143, [143])
    assert capsys.readouterr().err == "error: terminated\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_run_keeps_sigterm_handler_of_user(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")):
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_run_keeps_folder_on_input_error_after_logged_row(tmp_path: Path) -> None:
    with contextlib.suppress(InputError), Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.0)
        raise InputError("the data ran out")
    assert (tmp_path / "run/history.jsonl").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"id": "a"}', "\xff"])
def test_run_rejects_resume_of_invalid_config(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"no run in|can't read"):
        Run("joint", RunConfig(resume=tmp_path, wandb="disabled"))


def read_strictly(path: Path) -> object:
    """Parse a JSON file, or each line of it, without NaN and infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    text = path.read_text()
    return (
        [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else (json.loads(text, parse_constant=refuse))
    )


def test_run_writes_strict_json(tmp_path: Path) -> None:
    nan, infinity = float("nan"), float("inf")
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"a": nan, "b": np.float32(0.5)}) as run:
        run.log({"val/mse": nan, "val/psnr": 3.0, "train/loss": -infinity}, 1, 0.1)
        tables = {"t": Table(("x", "y"), [(nan, 1), (np.float32(2), infinity)])}
        run.summarise({"test/mse": infinity, "nested": {"a": [nan, torch.tensor(1.0)]}}, Media({}, tables))
    config, rows, summary, table = (
        read_strictly(run.folder / name) for name in ("config.json", "history.jsonl", "summary.json", "tables/t.json")
    )
    assert isinstance(config, dict)
    assert config["config"] == {"a": None, "b": 0.5}
    assert rows == [{"step": 1, "epoch": 0.1, "val/mse": None, "val/psnr": 3.0, "train/loss": None}]
    best = {"best/val/psnr": 3.0}
    assert summary == {"step": 1, "epoch": 0.1, "test/mse": None, "nested": {"a": [None, 1.0]}, **best}
    assert table == {"columns": ["x", "y"], "rows": [[None, 1], [2.0, None]]}
    assert run.history() == [{"step": 1, "epoch": 0.1, "val/psnr": 3.0}]
    (run.folder / "history.jsonl").write_text('{"step": 1, "a": NaN, "b": 1e999, "c": 2}\n')  # of an earlier version
    assert run.history() == [{"step": 1, "c": 2}]
    with pytest.raises(InputError, match=r"config must be a dataclass or a dict, got 'text'"):
        to_json("text")
    with (
        Run("joint", RunConfig(dir=tmp_path / "other", wandb="disabled")) as other,
        pytest.raises(InputError, match=r"a.b must be a number, text, or a list or dict of these, got <object"),
    ):
        other.summarise({"a": {"b": object()}})


def test_rewind_keeps_lines_of_history(tmp_path: Path) -> None:
    run = Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    run.log({"val/mse": float("nan")}, 1, 0.1)
    run.log({"val/mse": 1.0}, 2, 0.2)
    run.rewind(1)
    assert (run.folder / "history.jsonl").read_text() == '{"step": 1, "epoch": 0.1, "val/mse": null}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step": 1}\n{"step": 2, "a"\n{"step": 3}\n', "history.jsonl, line 2: "),
        ('{"step": 1}\n[]\n', r"history.jsonl: line 2 must be a row with a step, got \[\]"),
        ('{"step": "1"}\n', "history.jsonl: line 1: step must be a whole number from 0, got '1'"),
        ('{"step": 1, "a": "b"}\n', "history.jsonl: line 1: a must be a number, got 'b'"),
        ("[" * 100_000 + "\n", "history.jsonl, line 1: it is nested too deeply"),
        ("\xff\n", "history.jsonl: it must be text in UTF-8, and is not at byte 0"),
    ],
)
def test_run_rejects_broken_history_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")).finish()
    (tmp_path / "run/history.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "history.jsonl", "summary.json", "state.pt", "state.prev.pt"])
def test_run_rejects_special_files_without_opening_them(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    Run("joint", RunConfig(dir=folder, wandb="disabled")).finish()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name}: it must be a file, and is a named pipe"):
        resume(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: it must be a file, and is a folder"):
        resume(folder)


def resume(folder: Path) -> None:
    with Run("joint", RunConfig(resume=folder, wandb="disabled")) as run:
        run.load_state()


def test_run_rejects_too_long_names_in_one_line(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 280)
    for where in (RunConfig(dir=long, wandb="disabled"), RunConfig(resume=long, wandb="disabled")):
        with pytest.raises(InputError, match="File name too long"):
            Run("joint", where)
    with pytest.raises(InputError, match="File name too long"):
        Run("x" * 280, RunConfig(wandb="disabled"))
    with pytest.raises(InputError, match="File name too long"):
        read_history(long)
    with pytest.raises(InputError, match="experiment must be text that a file's name can hold, got 'a/b'"):
        Run("a/b", RunConfig(wandb="disabled"))
    fork = Run("joint", RunConfig(dir=tmp_path / "fork", fork=long, wandb="disabled"))
    with pytest.raises(InputError, match="File name too long"):
        fork.load_fork(nn.Linear(1, 1))


def test_run_rejects_resume_by_another_experiment(tmp_path: Path) -> None:
    Run("reconstruct", RunConfig(dir=tmp_path / "run", wandb="disabled")).finish()
    with pytest.raises(InputError, match=r"run is a run of reconstruct, which joint can't continue; .* --run.fork"):
        Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))


def test_load_state_rejects_lost_state_of_started_training(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.save_state({"step": 0})
        run.log({"train/loss": 1.0}, 40, 0.1)
    (run.folder / "state.pt").unlink()
    with pytest.raises(
        InputError, match=r"can't continue .*run: state.pt is gone, and its history goes to step 40; .*"
    ):
        resume(run.folder)
    (run.folder / "history.jsonl").unlink()
    resume(run.folder)  # its training had not started


def test_rewind_removes_temporary_files_of_killed_processes(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.save_state({"step": 0})
    for name in (".state.pt.123.tmp", "pictures/.a.png.7.tmp", "mine.tmp"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).touch()
    with Run("joint", RunConfig(resume=run.folder, wandb="disabled")) as run:
        run.rewind(0)
    assert [path.name for path in run.folder.rglob("*.tmp")] == ["mine.tmp"]


def test_run_writes_on_file_system_without_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
        run.save_state({"step": 1})
    assert run.load_state() == {"step": 1}


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">/dev/full 2>&1", "| head -1", ">&- 2>&-"])
def test_run_survives_unwritable_stdout(tmp_path: Path, redirect: str) -> None:
    flags = "--data.limit 100 --data.validation 60 --recipe.batch-size 40 --recipe.steps 4 --model.channels 4 8"
    line = f"{sys.executable} -m experiments.joint {flags} --run.wandb offline --run.dir {tmp_path / 'é'} {redirect}"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    process = subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, env=environment, check=False)
    assert process.returncode == 0
    assert read_summary(tmp_path / "é") is not None
