import contextlib
import errno
import fcntl
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
from ae.runs.lock import is_running
from ae.tracking.media import Media, Table
from tests.helpers import ROOT


@dataclass(frozen=True)
class Config:
    size: tuple[int, ...] = (1, 2)
    place: Path = Path("here")
    run: RunConfig = RunConfig()


def test_names_its_folder_after_the_experiment(tmp_path: Path) -> None:
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


def test_a_configuration_may_be_a_dict_with_dataclasses_in_it() -> None:
    assert to_json({"where": Config(), "at": Path("a")})["where"]["size"] == [1, 2]
    assert to_json(None) == {}


def test_keeps_what_it_is_given(tmp_path: Path) -> None:
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


def test_continues_in_its_folder_with_its_id(tmp_path: Path) -> None:
    first = Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    for step in range(5):
        first.log({"train/loss": 1.0}, step, 0.0)
    with open(first.folder / "history.jsonl", "a") as history:
        history.write('{"step": 2, "ep')  # what a kill in the middle of a write leaves
    first.finish()
    second = Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))
    second.rewind(2)
    second.log({"train/loss": 2.0}, 3, 0.0)
    assert [(row["step"], row["train/loss"]) for row in second.history()] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert second.id == first.id


def test_a_run_is_open_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run("joint", RunConfig(dir=folder, wandb="disabled")) as run:
        run.save_state({"step": 1})
        assert is_running(folder)
        with pytest.raises(InputError, match=r"the run in .*run is open already"):
            Run("joint", RunConfig(resume=folder, wandb="disabled"))
    assert not is_running(folder)
    assert not is_running(tmp_path / "nowhere")
    Run("joint", RunConfig(resume=folder, wandb="disabled")).finish()


def test_refuses_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    before = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(InputError, match=r"already holds a run: continue it with --run.resume"):
        Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_refuses_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        Run("joint", RunConfig(dir=tmp_path / "file", wandb="disabled"))
    with pytest.raises(InputError, match=r"can't write in .*: Not a directory"):
        Run("joint", RunConfig(dir=tmp_path / "file/run", wandb="disabled"))


def test_refuses_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere; then let the system call itself refuse

        def refuse(self: Path, *args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=f"can't write in {folder}: Permission denied"):
        Run("joint", RunConfig(dir=folder, wandb="disabled"))
    assert not list(folder.iterdir())


def test_bad_input_at_the_start_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
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
    """Every file."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_resumed_run_is_as_it_was_until_its_state_is_accepted(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="offline"), {"recipe": Recipe(log_every=1)}) as run:
        run.log({"train/loss": 1.0}, 1, 0.0)
        run.save_state({"step": 1})
    wandb.teardown()  # its process ends, and writes no more
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


def test_sigterm_leaves_by_an_exception_and_finishes_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []
    monkeypatch.setattr(Run, "finish", lambda self, exit_code: finished.append(exit_code))
    with pytest.raises(SystemExit) as ended, Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")):
        signal.raise_signal(signal.SIGTERM)
    assert (ended.value.code, finished) == (143, [143])
    assert capsys.readouterr().err == "error: terminated\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_users_own_for_sigterm_stays(tmp_path: Path) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")):
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_bad_input_after_a_row_was_logged_keeps_the_run(tmp_path: Path) -> None:
    with contextlib.suppress(InputError), Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.0)
        raise InputError("the data ran out")
    assert (tmp_path / "run/history.jsonl").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"id": "a"}', "\xff"])
def test_resuming_refuses_what_is_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"no run in|can't read|is no run's"):
        Run("joint", RunConfig(resume=tmp_path, wandb="disabled"))


def strictly(path: Path) -> object:
    """A JSON file as a strict parser reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    text = path.read_text()
    return (
        [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else (json.loads(text, parse_constant=refuse))
    )


@pytest.mark.usefixtures("unhooked")
def test_log_takes_numbers_of_numpy_and_tensors(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        values = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2.5), "d": np.array(4.0), "e": True}
        run.log(values, np.int64(7), np.float64(0.5))  # type: ignore[arg-type]
    assert run.history() == [{"step": 7, "epoch": 0.5, "a": 0.5, "b": 3, "c": 2.5, "d": 4.0, "e": 1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"loss": "0.5"}, "loss must be a number to be logged, got '0.5'"),
        ({"loss": None}, "loss must be a number to be logged, got None"),
        ({"loss": np.zeros(3)}, r"loss must be a number to be logged, got ndarray \[3\]"),
        ({"loss": torch.zeros(2, 2)}, r"loss must be a number to be logged, got Tensor \[2, 2\]"),
        ({"loss": torch.zeros((), device="meta")}, r"loss must be a number to be logged, got tensor"),
        ({"loss": 10**400}, "loss must be a number that a float can hold"),
        ({"step": 3}, "'step' can't be logged as a key"),
        ({"_timestamp": 3}, "'_timestamp' can't be logged as a key"),
        ({3: 3}, "3 can't be logged as a key"),
    ],
)
@pytest.mark.usefixtures("unhooked")
def test_log_refuses_what_is_no_number(tmp_path: Path, row: dict[str, float], message: str) -> None:
    run = Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    with pytest.raises(InputError, match=message):
        run.log(row, 1, 0.1)
    with pytest.raises(InputError, match="step must be 0 or more"):
        run.log({}, -1, 0.1)
    with pytest.raises(InputError, match="a picture's name must be text"):
        run.log({}, 1, 0.1, {"a/b": Image.new("L", (1, 1))})
    run.finish()
    assert run.history() == []


def test_every_json_file_is_strict(tmp_path: Path) -> None:
    nan, infinity = float("nan"), float("inf")
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"a": nan, "b": np.float32(0.5)}) as run:
        run.log({"val/mse": nan, "val/psnr": 3.0, "train/loss": -infinity}, 1, 0.1)
        tables = {"t": Table(("x", "y"), [(nan, 1), (np.float32(2), infinity)])}
        run.summarise({"test/mse": infinity, "nested": {"a": [nan, torch.tensor(1.0)]}}, Media({}, tables))
    config, rows, summary, table = (
        strictly(run.folder / name) for name in ("config.json", "history.jsonl", "summary.json", "tables/t.json")
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


def test_a_rewound_history_keeps_its_lines(tmp_path: Path) -> None:
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
def test_a_broken_history_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")).finish()
    (tmp_path / "run/history.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as refused:
        Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["config.json", "history.jsonl", "summary.json", "state.pt", "state.prev.pt"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    Run("joint", RunConfig(dir=folder, wandb="disabled")).finish()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name}: it must be a file, and is a named pipe"):
        resumed(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: it must be a file, and is a folder"):
        resumed(folder)


def resumed(folder: Path) -> None:
    with Run("joint", RunConfig(resume=folder, wandb="disabled")) as run:
        run.load_state()


@pytest.mark.parametrize("summary", ["[]", "3", '{"step": "1"}', '{"epoch": []}', "{", '{"step": 1e3}'])
def test_a_broken_summary_is_one_line(tmp_path: Path, summary: str) -> None:
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(InputError, match=r"can't read .*summary\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    "change", [{"id": 3}, {"id": "../x"}, {"experiment": None}, {"config": []}, {"changes": {}}, {"data": 3}]
)
def test_a_configuration_of_the_wrong_kind_is_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    content = {"experiment": "joint", "id": "a", "config": {}, **change}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"config.json: {next(iter(change))} must be"):
        read_config(tmp_path)


def test_names_that_are_too_long_are_one_line(tmp_path: Path) -> None:
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


def test_a_run_is_continued_by_its_own_experiment(tmp_path: Path) -> None:
    Run("reconstruct", RunConfig(dir=tmp_path / "run", wandb="disabled")).finish()
    with pytest.raises(InputError, match=r"run is a run of reconstruct, which joint can't continue; .* --run.fork"):
        Run("joint", RunConfig(resume=tmp_path / "run", wandb="disabled"))


def test_a_run_that_has_lost_its_state_is_not_begun_again(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.save_state({"step": 0})
        run.log({"train/loss": 1.0}, 40, 0.1)
    (run.folder / "state.pt").unlink()
    with pytest.raises(
        InputError, match=r"can't continue .*run: state.pt is gone, and its history goes to step 40; .*"
    ):
        resumed(run.folder)
    (run.folder / "history.jsonl").unlink()
    resumed(run.folder)  # it had not begun


def test_temporary_files_of_killed_processes_go(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.save_state({"step": 0})
    for name in (".state.pt.123.tmp", "pictures/.a.png.7.tmp", "mine.tmp"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).touch()
    with Run("joint", RunConfig(resume=run.folder, wandb="disabled")) as run:
        run.rewind(0)
    assert [path.name for path in run.folder.rglob("*.tmp")] == ["mine.tmp"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
        run.save_state({"step": 1})
    assert "is on a file system without locks: see that no other process has the run open\n" in capsys.readouterr().err
    assert not is_running(run.folder)
    resumed(run.folder)


def test_a_file_system_without_fsync_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
        run.save_state({"step": 1})
    assert run.load_state() == {"step": 1}


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">/dev/full 2>&1", "| head -1", ">&- 2>&-"])
def test_what_is_printed_fails_no_run(tmp_path: Path, redirect: str) -> None:
    flags = "--data.limit 100 --data.validation 60 --recipe.batch-size 40 --recipe.steps 4 --model.channels 4 8"
    line = f"{sys.executable} -m experiments.joint {flags} --run.wandb offline --run.dir {tmp_path / 'é'} {redirect}"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, env=environment, check=False)
    assert ended.returncode == 0
    assert read_summary(tmp_path / "é") is not None
