"""What reaches W&B, of runs of the main job: by the offline log, and by a server that the real client talks to."""

import gc
import json
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from safetensors.torch import load as load_tensors

from ae import (
    Autoencoder,
    Batch,
    ConvEncoder,
    DeconvDecoder,
    InputError,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
    upload,
)
from ae.runs.folder import read_config
from experiments.joint import Config, main
from tests.experiments.test_experiments import short
from tests.helpers import ROOT
from tests.helpers.tracked import history, job, last_line, numbers, run_command, slow, table, without_times
from tests.helpers.wandb_log import Log, read_log
from tests.helpers.wandb_server import Fault, WandbServer

# Offline


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """A run of the main job without a W&B account: its folder, and the log that W&B kept."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    wandb.teardown()  # the client remembers the server that it knew before
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("HOME", str(folder.parent))
        main(short(Config(), folder, wandb="auto"))
    (log,) = folder.glob("wandb/offline-run-*")
    return folder, read_log(log)


def test_without_an_account_the_run_is_offline_and_complete(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    assert (log.project, log.name, log.job_type, log.exit_code) == ("ae", "run", "joint", 0)
    assert log.id == read_config(folder)["id"]


def test_every_number_in_the_history_is_in_wandb(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    assert numbers(log.rows) == history(folder)
    assert len(history(folder)) == 4


def test_the_whole_configuration_is_in_wandb(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    config = read_config(folder)["config"]
    assert {key: log.config[key] for key in config} == config


def test_reconstructions_of_the_same_images_over_training(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    pictures = {row["step"]: row["reconstructions"] for row in log.rows if "reconstructions" in row}
    assert list(pictures) == [2, 4]
    for step, picture in pictures.items():
        (path,) = folder.glob(f"wandb/offline-run-*/files/{picture['path']}")
        assert path.read_bytes() == (folder / f"pictures/reconstructions-{step:08d}.png").read_bytes()


def test_the_summary_is_in_wandb_as_plain_numbers(offline: tuple[Path, Log]) -> None:
    folder, log = offline
    summary = json.loads((folder / "summary.json").read_text())
    for key, value in summary.items():
        assert log.summary.get(key) == value, key
    rows = history(folder)
    assert summary["best/val/mse"] == min(row["val/mse"] for row in rows if "val/mse" in row)
    assert summary["best/val/accuracy"] == max(row["val/accuracy"] for row in rows if "val/mse" in row)


# Online


def test_an_online_run_is_complete(server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = short(Config(), tmp_path / "run")
    where = RunConfig(
        dir=tmp_path / "run", project="digits", group="widths", tags=("a", "b"), notes="a try", name="narrow"
    )
    main(replace(config, run=where))
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


def test_shows_the_images_that_the_model_fails_on(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run"))
    row = server.run.rows[-1]
    worst, wrong = table(server, "test/worst_reconstructed"), table(server, "test/misclassified")
    assert len(worst) == len(wrong) == 32
    assert [image["mse"] for image in worst] == sorted((image["mse"] for image in worst), reverse=True)
    assert worst[0]["mse"] > row["test/mse"]
    assert all(image["label"] != image["prediction"] for image in wrong)
    assert wrong[0]["cross_entropy"] == max(image["cross_entropy"] for image in wrong)
    assert len({image["picture"]["sha256"] for image in worst}) == 32
    assert {(image["picture"]["width"], image["picture"]["height"]) for image in worst} == {(56, 28)}
    confusion = table(server, "test/confusion_table")
    assert len(confusion) == 100
    counts = {(cell["Actual"], cell["Predicted"]): cell["nPredictions"] for cell in confusion}
    assert sum(counts.values()) == 128
    right = sum(count for (actual, predicted), count in counts.items() if actual == predicted)
    assert right / 128 == pytest.approx(row["test/accuracy"])


def test_the_model_and_the_code_are_artifacts(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
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


def test_wandbs_variables_hold_where_nothing_is_given(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROJECT": "theirs", "NAME": "named", "RUN_GROUP": "g", "TAGS": "x,y", "NOTES": "n"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with Run("joint", RunConfig(dir=tmp_path / "a")):
        pass
    run = server.run
    assert (run.project, run.display_name, run.group) == ("theirs", "named", "g")
    assert (run.tags, run.notes) == (["x", "y"], "n")
    server.store.runs.clear()
    with Run("joint", RunConfig(dir=tmp_path / "b", project="mine", group="h", tags=("z",), name="other")):
        pass
    assert (server.run.project, server.run.display_name, server.run.group, server.run.tags) == (
        "mine",
        "other",
        "h",
        ["z"],
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Run("joint", RunConfig(dir=tmp_path / "c")) as local:
        pass
    assert list(local.folder.glob("wandb/offline-run-*"))


def test_the_commit_and_what_differs_from_it_are_kept(server: WandbServer, tmp_path: Path) -> None:
    """In a repository with a change that is not committed."""
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


def test_gradients_are_watched_if_asked(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", watch="gradients"))
    assert any(key.startswith("gradients/encoder") for row in server.run.rows for key in row)
    assert numbers(server.run.rows) == history(tmp_path / "run")


# Resuming


class Stops:
    """The joint objective, until it is interrupted at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: Any, batch: Batch, step: int) -> Loss:
        if step == self.at and model.training:
            raise KeyboardInterrupt
        return Joint()(model, batch, step)


def interrupted(data: Splits, folder: Path, wandb: Any, resume: bool = False) -> None:
    """The job, interrupted before its last step."""
    where = RunConfig(resume=folder, wandb=wandb) if resume else RunConfig(dir=folder, wandb=wandb)
    with pytest.raises(KeyboardInterrupt):
        job(data, where, Stops(at=3))


def finish(data: Splits, folder: Path, wandb: Any) -> None:
    job(data, RunConfig(resume=folder, wandb=wandb))


def test_a_resumed_run_continues_with_no_step_lost_or_doubled(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    job(digits, RunConfig(dir=tmp_path / "whole", wandb="disabled"))
    interrupted(digits, tmp_path / "run", wandb="online")
    assert (server.run.state, server.run.exit_code) == ("failed", 130)
    assert [row["step"] for row in server.run.rows] == [1, 2, 3]
    finish(digits, tmp_path / "run", wandb="online")
    assert server.run.state == "finished"
    assert without_times(numbers(server.run.rows)) == without_times(history(tmp_path / "whole"))
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]


def test_a_refused_resume_is_not_seen_by_wandb(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    interrupted(digits, tmp_path / "run", wandb="online")
    before, rows = server.run.answer(), list(server.run.rows)
    other = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)))
    with (
        pytest.raises(InputError, match="does not fit this model"),
        Run("joint", RunConfig(resume=tmp_path / "run")) as run,
    ):
        fit(other, Joint(classification=0.0), digits, Recipe(steps=6, batch_size=128), run)
    assert server.run.answer() == before
    assert server.run.rows == rows


def test_an_interrupted_run_has_its_best_weights_and_metrics_in_wandb(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    interrupted(digits, tmp_path / "run", wandb="online")
    best = server.store.artifact("ae", f"model-{server.run.name}", "best")
    assert best is not None
    assert server.store.content(best, "model.safetensors") == (tmp_path / "run/best.safetensors").read_bytes()
    (validated,) = [row["val/mse"] for row in history(tmp_path / "run") if "val/mse" in row]
    assert server.run.summary["best/val/mse"] == validated == json.loads(best.metadata or "")["best/val/mse"]


@pytest.mark.parametrize("target", ["", slow("/wandb")])
def test_a_run_resumed_offline_uploads_as_one(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    interrupted(digits, tmp_path / "run", wandb="offline")
    interrupted(digits, tmp_path / "run", wandb="offline", resume=True)
    finish(digits, tmp_path / "run", wandb="offline")
    line = last_line(capsys)
    run_command(f"upload with `wandb sync {tmp_path}/run/wandb`" if target else line)
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert server.run.state == "finished"


@pytest.mark.slow
def test_a_run_uploaded_before_it_is_resumed_offline_goes_on(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(digits, tmp_path / "run", wandb="offline")
    run_command(last_line(capsys))
    finish(digits, tmp_path / "run", wandb="offline")
    run_command(last_line(capsys))
    assert [row["step"] for row in server.run.rows] == [1, 2, 3, 4]
    assert without_times(numbers(server.run.rows)) == without_times(history(tmp_path / "run"))


def test_a_run_begun_offline_is_whole_when_it_is_resumed_online(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    interrupted(digits, tmp_path / "run", wandb="offline")
    finish(digits, tmp_path / "run", wandb="online")
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]


@pytest.mark.slow
def test_a_run_whose_server_died_is_whole_when_it_is_resumed_offline_and_uploaded(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("file_stream", 403, count=1))
    interrupted(digits, tmp_path / "run", wandb="online")
    finish(digits, tmp_path / "run", wandb="offline")
    line = last_line(capsys)
    assert "python -m ae.upload" in line
    run_command(line)
    run_command(line)
    assert numbers(server.run.rows) == history(tmp_path / "run")


def test_a_wrong_id_to_resume_is_refused(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "not/an/id")
    with pytest.raises(InputError, match=r"WANDB_RUN_ID must be 1 to 128 .*none of .*, got 'not/an/id'"):
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_uploading_what_is_there_already_does_no_harm(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", group="g", tags=("a",)))
    before = {file: file.read_bytes() for file in (tmp_path / "run").glob("*.*")}
    rows = list(server.run.rows)
    for _ in range(2):
        upload.main(upload.Config(run=tmp_path / "run"))
    assert server.run.rows == rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (server.run.group, server.run.tags, server.run.state) == ("g", ["a"], "finished")
    assert {file: file.read_bytes() for file in (tmp_path / "run").glob("*.*")} == before


def test_a_run_that_the_server_never_saw_is_uploaded_whole(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    upload.main(upload.Config(run=tmp_path / "run"))
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]
    assert len(table(server, "test/misclassified")) == 32
    assert server.run.summary["test/mse"] == json.loads((tmp_path / "run/summary.json").read_text())["test/mse"]
    assert server.store.artifact("ae", f"model-{server.run.name}", "best") is not None


# From Python


def test_a_run_that_is_open_is_used_and_left_open(server: WandbServer, tmp_path: Path) -> None:
    with wandb.init(project="mine", config={"theirs": 1}) as opened:
        opened.log({"before": 1})
        with Run("joint", RunConfig(dir=tmp_path / "run"), {"ours": {"a": 2}}) as run:
            run.log({"train/loss": 0.5}, 1, 0.1)
            run.log({"train/loss": 0.25}, 2, 0.2)
            run.summarise({"test/mse": 0.5})
        opened.log({"after": 1})
    found = server.run
    assert (found.project, found.state) == ("mine", "finished")
    assert found.config["theirs"]["value"] == 1
    assert found.config["ours"]["value"] == {"a": 2}
    assert [row["train/loss"] for row in found.rows if "train/loss" in row] == [0.5, 0.25]
    assert "before" in found.rows[0]
    assert "after" in found.rows[-1]


def test_works_in_a_function_that_a_sweeps_agent_calls(server: WandbServer, tmp_path: Path) -> None:
    server.store.sweep = [{"width": 4}]

    def train() -> None:
        with Run("joint", RunConfig(dir=tmp_path / "run"), {"depth": 2}) as run:
            run.log({"train/loss": wandb.config["width"] / 8}, 1, 0.1)
            run.summarise({"test/mse": 0.5})

    wandb.agent("a-sweep", train, project="swept", count=1)
    found = server.run
    assert (found.project, found.name, found.state) == ("swept", "swept0", "finished")
    assert {name: found.config[name]["value"] for name in ("width", "depth")} == {"width": 4, "depth": 2}
    assert [row["train/loss"] for row in found.rows] == [0.5]
    assert read_config(tmp_path / "run")["id"] == "swept0"


def test_resuming_in_a_run_that_is_open_doubles_nothing(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    with wandb.init(project="mine", id="theirs"):
        interrupted(digits, tmp_path / "run", wandb="auto")
    assert read_config(tmp_path / "run")["id"] == "theirs"
    with wandb.init(project="mine", id="theirs", resume="must"):
        finish(digits, tmp_path / "run", wandb="auto")
    assert [row["step"] for row in server.run.rows if "train/loss" in row] == [1, 2, 3, 4]


def test_runs_follow_each_other_without_with_as_in_a_notebook(server: WandbServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = Run("joint", RunConfig(dir=tmp_path / name))
        run.log({"train/loss": 0.5}, 1, 0.1)
        run.finish()
    assert [run.state for run in server.store.runs.values()] == ["finished"] * 2


def test_wandbs_variable_can_switch_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert not (tmp_path / "run/wandb").exists()


def test_wandb_that_cannot_begin_never_fails_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise wandb.errors.CommError("the service does not start")

    monkeypatch.setattr(wandb, "init", fail)
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert "W&B  this run is not tracked: the service does not start" in capsys.readouterr().err
    assert len(run.history()) == 1


def test_a_refused_run_leaves_nothing(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RESUME", "must")
    with pytest.raises(InputError, match=r"W&B refuses the run: .* does not exist"):
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_uploading_needs_the_server(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="offline", patience=1.0))
    server.keys = ()
    before = sorted((tmp_path / "run").rglob("*.wandb"))
    with pytest.raises(InputError, match="W&B's server can't be reached"):
        upload.main(upload.Config(run=tmp_path / "run"))
    assert sorted((tmp_path / "run").rglob("*.wandb")) == before


def test_failing_wandb_never_fails_a_run(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise BrokenPipeError("the service is gone")

    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        monkeypatch.setattr(wandb.Run, "log", fail)
        run.log({"train/loss": 0.5}, 1, 0.1)
        run.log({"train/loss": 0.4}, 2, 0.2)
        monkeypatch.undo()
    shown = capsys.readouterr()
    assert shown.err.count("W&B  in trouble, the run goes on without rows: the service is gone") == 1
    assert f"python -m ae.upload --run {tmp_path / 'run'}" in shown.out
    assert [row["step"] for row in run.history()] == [1, 2]


def rows_of(server: WandbServer, run: Run) -> list[int]:
    return [row["step"] for row in server.store.run("ae", run.id).rows]


def test_runs_left_open_each_get_their_own_rows(server: WandbServer, tmp_path: Path) -> None:
    runs = [Run("joint", RunConfig(dir=tmp_path / name)) for name in ("a", "b", "c")]
    for step in range(3):
        for offset, run in enumerate(runs):
            run.log({"train/loss": 0.5}, 10 * offset + step, 0.1)
    assert len({run.id for run in runs}) == 3
    for run in runs:
        run.finish()
    assert [rows_of(server, run) for run in runs] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert [run.state for run in server.store.runs.values()] == ["finished"] * 3


def test_a_run_that_is_forgotten_is_finished(server: WandbServer, tmp_path: Path) -> None:
    run = Run("joint", RunConfig(dir=tmp_path / "run"))
    run.log({"train/loss": 0.5}, 1, 0.1)
    for _ in range(100):  # what is sent in the background holds it
        if not any(thread.is_alive() for thread in run._tracker._background.threads):  # type: ignore[union-attr]
            break
        time.sleep(0.05)
    del run
    gc.collect()
    deadline = time.monotonic() + 20
    while server.run.state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [row["step"] for row in server.run.rows] == [1]
    assert not (tmp_path / "run/summary.json").exists()


def test_a_finished_run_takes_no_rows_and_finishes_once(
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


def test_a_run_in_a_thread_is_tracked(server: WandbServer, tmp_path: Path) -> None:
    def work() -> None:
        with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
            run.log({"train/loss": 0.5}, 1, 0.1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert [row["step"] for row in server.run.rows] == [1]
    assert server.run.state == "finished"


def test_a_forked_process_does_not_log_to_wandb(server: WandbServer, tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
        assert run._tracker is not None
        child = os.fork()
        if child == 0:
            run._tracker.log({"step": 2, "epoch": 0.2, "train/loss": 7.0})
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        run.log({"train/loss": 0.25}, 2, 0.2)
    assert [row["train/loss"] for row in server.run.rows] == [0.5, 0.25]


def test_a_new_run_is_not_mixed_with_another_of_its_id(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    with Run("joint", RunConfig(dir=tmp_path / "a")) as first:
        first.log({"train/loss": 0.5}, 1, 0.1)
        with pytest.raises(InputError, match="WANDB_RUN_ID=chosen is the id of a run that is open"):
            Run("joint", RunConfig(dir=tmp_path / "b"))
    with pytest.raises(InputError, match=r"W&B refuses the run: .*chosen"):
        Run("joint", RunConfig(dir=tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    monkeypatch.setenv("WANDB_RESUME", "must")
    with Run("joint", RunConfig(dir=tmp_path / "c")) as second:
        second.log({"train/loss": 0.4}, 1, 0.1)
        second.log({"train/loss": 0.3}, 2, 0.2)
    assert [(row["step"], row["train/loss"]) for row in server.run.rows] == [(1, 0.5), (1, 0.4), (2, 0.3)]


def test_names_of_folders_that_wandb_would_refuse_are_shortened(server: WandbServer, tmp_path: Path) -> None:
    with Run("joint" * 40, RunConfig(dir=tmp_path / ("r" * 200))):
        pass
    assert (server.run.display_name, server.run.job_type) == ("r" * 128, ("joint" * 40)[:128])
