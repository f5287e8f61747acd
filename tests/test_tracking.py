import json
from pathlib import Path

import pytest

from experiments.joint import Config, main
from tests.test_experiments import short
from tests.wandb_log import Log, read_log


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """A run of the main job without a W&B account: its folder, and the log that W&B kept."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("HOME", str(folder.parent))
        main(short(Config(), folder, wandb="auto"))
    (log,) = folder.glob("wandb/offline-run-*")
    return folder, read_log(log)


def test_without_an_account_the_run_is_offline_and_complete(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    assert (log.project, log.name, log.job_type, log.exit_code) == ("ae", "run", "joint", 0)
    assert log.id == json.loads((folder / "config.json").read_text())["id"]


def test_every_number_in_the_history_is_in_wandb(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    tracked = [
        {k: v for k, v in row.items() if not k.startswith("_")} for row in log.rows if "reconstructions" not in row
    ]
    assert tracked == history
    assert len(history) > 3


def test_the_whole_configuration_is_in_wandb(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    config = json.loads((folder / "config.json").read_text())["config"]
    assert {key: log.config[key] for key in config} == config


def test_reconstructions_of_the_same_images_over_training(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    pictures = [row for row in log.rows if "reconstructions" in row]
    assert [row["step"] for row in pictures] == [2, 4]
    for row in pictures:
        (path,) = folder.glob(f"wandb/offline-run-*/files/{row['reconstructions']['path']}")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_summary_is_in_wandb(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    summary = json.loads((folder / "summary.json").read_text())
    assert log.summary["test/mse"] == summary["test/mse"]
    assert log.summary["code_size"] == 3136
