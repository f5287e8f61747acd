"""Data of the main job's runs in W&B: read from the offline log, and from a server that the real client talks to."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from safetensors.torch import load as load_tensors

from ae import InputError, Run, RunConfig, Splits
from ae.runs.folder import read_config
from experiments.joint import Config, main
from tests.experiments.test_experiments import short
from tests.helpers import ROOT
from tests.helpers.tracked import history, interrupted_job, job, last_line, numbers, table
from tests.helpers.wandb_log import Log, read_log
from tests.helpers.wandb_server import WandbServer


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """Run the main job without a W&B account; return its folder and W&B's offline log."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    wandb.teardown()  # the client remembers its previous server
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("HOME", str(folder.parent))
        main(short(Config(), folder, wandb="auto"))
    (log,) = folder.glob("wandb/offline-run-*")
    return folder, read_log(log)


@pytest.mark.slow
def test_tracker_without_account_is_offline_and_complete(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    assert (log.project, log.name, log.job_type, log.exit_code) == ("ae", "run", "joint", 0)
    assert log.id == read_config(folder)["id"]


@pytest.mark.slow
def test_tracker_logs_whole_history(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    assert numbers(log.rows) == history(folder)
    assert len(history(folder)) == 4


def test_tracker_logs_whole_configuration(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    config = read_config(folder)["config"]
    assert {key: log.config[key] for key in config} == config


def test_tracker_logs_reconstructions_at_every_validation(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    pictures = {row["step"]: row["reconstructions"] for row in log.rows if "reconstructions" in row}
    assert list(pictures) == [2, 4]
    for step, picture in pictures.items():
        (path,) = folder.glob(f"wandb/offline-run-*/files/{picture['path']}")
        assert path.read_bytes() == (folder / f"pictures/reconstructions-{step:08d}.png").read_bytes()


def test_tracker_logs_summary_as_plain_numbers(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    summary = json.loads((folder / "summary.json").read_text())
    for key, value in summary.items():
        assert log.summary.get(key) == value, key
    rows = history(folder)
    assert summary["best/val/mse"] == min(row["val/mse"] for row in rows if "val/mse" in row)
    assert summary["best/val/accuracy"] == max(row["val/accuracy"] for row in rows if "val/mse" in row)


def test_tracker_online_is_complete(server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = short(Config(), tmp_path / "run")
    run_config = RunConfig(
        dir=tmp_path / "run", project="digits", group="widths", tags=("a", "b"), notes="a try", name="narrow"
    )
    main(replace(config, run=run_config))
    run = server.run
    assert (run.project, run.display_name, run.group, run.job_type) == ("digits", "narrow", "widths", "joint")
    assert (run.tags, run.notes, run.state, run.exit_code) == (["a", "b"], "a try", "finished", 0)
    assert numbers(run.rows) == history(tmp_path / "run")
    assert last_line(capsys) == f"W&B  {server.url}/tester/digits/runs/{run.name}"

    stored = {key: value["value"] for key, value in run.config.items() if key != "_wandb"}
    assert stored == read_config(tmp_path / "run")["config"]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {key: run.summary.get(key) for key in summary} == summary

    pictures = {row["step"]: run.files[row["reconstructions"]["path"]] for row in run.rows if "reconstructions" in row}
    assert list(pictures) == [2, 4]
    final = run.rows[-1]
    for name in ("reconstructions", "code"):
        assert run.files[final[f"test/{name}"]["path"]] == (tmp_path / f"run/{name}.png").read_bytes()
    assert {"wandb-metadata.json", "requirements.txt", "config.yaml"} <= set(run.files)


@pytest.mark.slow
def test_tracker_logs_tables_of_failures(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run"))
    row = server.run.rows[-1]
    worst, misclassified = table(server, "test/worst_reconstructed"), table(server, "test/misclassified")
    assert len(worst) == len(misclassified) == 32
    assert [image["mse"] for image in worst] == sorted((image["mse"] for image in worst), reverse=True)
    assert worst[0]["mse"] > row["test/mse"]
    assert all(image["label"] != image["prediction"] for image in misclassified)
    assert misclassified[0]["cross_entropy"] == max(image["cross_entropy"] for image in misclassified)
    assert len({image["picture"]["sha256"] for image in worst}) == 32
    assert {(image["picture"]["width"], image["picture"]["height"]) for image in worst} == {(56, 28)}
    confusion = table(server, "test/confusion_table")
    assert len(confusion) == 100
    counts = {(cell["Actual"], cell["Predicted"]): cell["nPredictions"] for cell in confusion}
    assert sum(counts.values()) == 128
    right = sum(count for (actual, predicted), count in counts.items() if actual == predicted)
    assert right / 128 == pytest.approx(row["test/accuracy"])


@pytest.mark.slow
def test_tracker_saves_weights_and_source_as_artifacts(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run"))
    name = f"model-{server.run.name}"
    for alias, file in (("latest", "model"), ("best", "best")):
        artifact = wandb.Api().artifact(f"tester/ae/{name}:{alias}")
        path = Path(artifact.download(root=str(tmp_path / alias)), "model.safetensors")
        assert path.read_bytes() == (tmp_path / f"run/{file}.safetensors").read_bytes()
        assert load_tensors(path.read_bytes())
        assert artifact.metadata["model"]["encoder"]["class"] == "ConvEncoder"
        assert artifact.metadata["best/val/mse"] == server.run.summary["best/val/mse"]
        same = (tmp_path / "run/best.safetensors").read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()
        tested = alias == "latest" or same
        assert artifact.metadata.get("test/mse") == (server.run.summary["test/mse"] if tested else None)
    code = server.store.artifact("ae", "source-ae", "latest")
    assert code is not None
    assert server.store.content(code, "ae/training/fit.py") == (ROOT / "ae/training/fit.py").read_bytes()


@pytest.mark.slow
def test_tracker_stores_commit_and_diff(server: WandbServer, tmp_path: Path) -> None:
    """Use a repository with a change that is not committed."""
    code = tmp_path / "code.py"
    code.write_text("width = 4\n")
    for command in ("init -q", "add code.py", "-c user.name=a -c user.email=a@example.invalid commit -qm one"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    code.write_text("width = 8\n")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    with Run("joint", RunConfig(dir=tmp_path / "run")):
        pass
    assert server.run.commit == head.stdout.strip()
    assert b"+width = 8" in server.run.files["diff.patch"]


@pytest.mark.slow
def test_tracker_watch_logs_histograms_of_gradients(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", watch="gradients"))
    assert any(key.startswith("gradients/encoder") for row in server.run.rows for key in row)
    assert numbers(server.run.rows) == history(tmp_path / "run")


@pytest.mark.slow
def test_tracker_saves_best_weights_and_metrics_of_interrupted_run(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    interrupted_job(digits, tmp_path / "run", wandb="online")
    best = server.store.artifact("ae", f"model-{server.run.name}", "best")
    assert best is not None
    assert server.store.content(best, "model.safetensors") == (tmp_path / "run/best.safetensors").read_bytes()
    (validated,) = [row["val/mse"] for row in history(tmp_path / "run") if "val/mse" in row]
    assert server.run.summary["best/val/mse"] == validated == json.loads(best.metadata or "")["best/val/mse"]


@pytest.mark.slow
def test_tracker_rejects_rows_after_finish_and_finishes_once(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
        run.finish()
        with pytest.raises(InputError, match=r"is finished: continue it with --run\.resume"):
            run.log({"train/loss": 0.4}, 2, 0.2)
    run.finish()
    assert capsys.readouterr().out.count("W&B  ") == 1
    assert [row["step"] for row in server.run.rows] == [row["step"] for row in history(tmp_path / "run")] == [1]


@pytest.mark.slow
def test_tracker_ignores_rows_of_forked_process(server: WandbServer, tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
        tracker = run._open().tracker
        assert tracker is not None
        child = os.fork()
        if child == 0:
            tracker.log({"step": 2, "epoch": 0.2, "train/loss": 7.0})
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        run.log({"train/loss": 0.25}, 2, 0.2)
    assert [row["train/loss"] for row in server.run.rows] == [0.5, 0.25]
