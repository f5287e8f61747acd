"""Every training step is logged once, also in a run that is resumed online, offline, or in the user's open run."""

from pathlib import Path

import pytest
import wandb

from ae import Autoencoder, ConvEncoder, DeconvDecoder, InputError, Joint, Recipe, Run, RunConfig, Splits, fit
from ae.runs.folder import read_config
from tests.helpers.tiers import slow
from tests.helpers.tracked import (
    history,
    interrupted_job,
    job,
    last_line,
    numbers,
    resumed_job,
    run_command,
    without_times,
)
from tests.helpers.wandb_server import Fault, WandbServer


def test_row_log_logs_every_step_once_after_resume(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "whole", wandb="disabled"))
    interrupted_job(digits, tmp_path / "run", wandb="online")
    assert (server.run.state, server.run.exit_code) == ("failed", 130)
    assert [row["step"] for row in server.run.rows] == [1, 2, 3]
    resumed_job(digits, tmp_path / "run", wandb="online")
    assert server.run.state == "finished"
    assert without_times(numbers(server.run.rows)) == without_times(history(tmp_path / "whole"))
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]


@pytest.mark.slow
def test_tracker_is_unchanged_by_refused_resume(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    interrupted_job(digits, tmp_path / "run", wandb="online")
    before, rows = server.run.answer(), list(server.run.rows)
    wider_model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)))
    with (
        pytest.raises(InputError, match="does not fit this model"),
        Run("joint", RunConfig(resume=tmp_path / "run")) as run,
    ):
        fit(wider_model, Joint(classification=0.0), digits, Recipe(steps=6, batch_size=128), run)
    assert server.run.answer() == before
    assert server.run.rows == rows


@pytest.mark.slow
@pytest.mark.parametrize("target", ["", slow("/wandb")])
def test_row_log_uploads_as_one_run_after_offline_resumes(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    interrupted_job(digits, tmp_path / "run", wandb="offline")
    interrupted_job(digits, tmp_path / "run", wandb="offline", resume=True)
    resumed_job(digits, tmp_path / "run", wandb="offline")
    line = last_line(capsys)
    run_command(f"upload with `wandb sync {tmp_path}/run/wandb`" if target else line)
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert server.run.state == "finished"


@pytest.mark.slow
def test_row_log_continues_run_uploaded_before_offline_resume(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted_job(digits, tmp_path / "run", wandb="offline")
    run_command(last_line(capsys))
    resumed_job(digits, tmp_path / "run", wandb="offline")
    run_command(last_line(capsys))
    assert [row["step"] for row in server.run.rows] == [1, 2, 3, 4]
    assert without_times(numbers(server.run.rows)) == without_times(history(tmp_path / "run"))


@pytest.mark.slow
def test_row_log_is_complete_after_online_resume_of_offline_run(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    interrupted_job(digits, tmp_path / "run", wandb="offline")
    resumed_job(digits, tmp_path / "run", wandb="online")
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]


@pytest.mark.slow
def test_row_log_is_complete_after_server_failure_offline_resume_and_upload(
    server: WandbServer, digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_down(Fault("file_stream", 403, count=1))
    interrupted_job(digits, tmp_path / "run", wandb="online")
    resumed_job(digits, tmp_path / "run", wandb="offline")
    line = last_line(capsys)
    assert "python -m ae.upload" in line
    run_command(line)
    run_command(line)
    assert numbers(server.run.rows) == history(tmp_path / "run")


@pytest.mark.slow
def test_row_log_logs_every_step_once_after_resume_in_open_run(
    server: WandbServer, digits: Splits, tmp_path: Path
) -> None:
    with wandb.init(project="mine", id="theirs"):
        interrupted_job(digits, tmp_path / "run", wandb="auto")
    assert read_config(tmp_path / "run")["id"] == "theirs"
    with wandb.init(project="mine", id="theirs", resume="must"):
        resumed_job(digits, tmp_path / "run", wandb="auto")
    assert [row["step"] for row in server.run.rows if "train/loss" in row] == [1, 2, 3, 4]
