"""Upload of ended runs to W&B's server."""

import json
from pathlib import Path

import pytest

from ae import InputError, RunConfig, Splits, upload
from tests.helpers.tracked import history, job, numbers, table
from tests.helpers.wandb_server import WandbServer


@pytest.mark.slow
def test_upload_of_complete_run_changes_nothing(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", group="g", tags=("a",)))
    before = {file: file.read_bytes() for file in (tmp_path / "run").glob("*.*")}
    rows = list(server.run.rows)
    for _ in range(2):
        upload.main(upload.Config(run=tmp_path / "run"))
    assert server.run.rows == rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (server.run.group, server.run.tags, server.run.state) == ("g", ["a"], "finished")
    assert {file: file.read_bytes() for file in (tmp_path / "run").glob("*.*")} == before


@pytest.mark.slow
def test_upload_of_untracked_run_is_complete(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    upload.main(upload.Config(run=tmp_path / "run"))
    assert numbers(server.run.rows) == history(tmp_path / "run")
    assert [row["step"] for row in server.run.rows if "reconstructions" in row] == [2, 4]
    assert len(table(server, "test/misclassified")) == 32
    assert server.run.summary["test/mse"] == json.loads((tmp_path / "run/summary.json").read_text())["test/mse"]
    assert server.store.artifact("ae", f"model-{server.run.name}", "best") is not None


def test_upload_rejects_unreachable_server(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="offline", patience=1.0))
    server.keys = ()
    before = sorted((tmp_path / "run").rglob("*.wandb"))
    with pytest.raises(InputError, match="W&B's server can't be reached"):
        upload.main(upload.Config(run=tmp_path / "run"))
    assert sorted((tmp_path / "run").rglob("*.wandb")) == before
