import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import wandb
from PIL import Image
from torch import nn

from ae import InputError, Recipe, Run, RunConfig
from ae.evidence import Evidence
from ae.run_folder import is_running, read_config, to_json


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
        run.summarise({"test/mse": 0.2}, Evidence({"reconstructions": Image.new("RGB", (4, 4))}))
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
