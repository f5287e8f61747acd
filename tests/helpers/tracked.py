"""Small tracked runs, and readers of their rows, tables and last lines."""

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ae import (
    Autoencoder,
    Batch,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
    report,
)
from ae.training.step import Objective
from experiments import joint
from tests.helpers import ROOT
from tests.helpers.wandb_server import WandbServer

Row = dict[str, Any]


def job(data: Splits, run_config: RunConfig, objective: Objective | None = None) -> None:
    """Run the main job's 4 steps with a narrow model on a few real digits; save and validate at steps 2 and 4."""
    torch.manual_seed(0)
    heads = {"digit": Classifier((8, 7, 7))}
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads=heads)
    recipe = Recipe(steps=4, batch_size=128, evaluate_every=2, log_every=1)
    with Run("joint", run_config, {"recipe": recipe, "model": {"channels": (4, 8)}}) as run:
        report(model, data, fit(model, objective or Joint(), data, recipe, run), run)


def main_job(data: Splits, folder: Path, model: joint.Model | None = None, seed: int = 0) -> None:
    """Train the main job's full model for 2 steps, and test it on a few real digits."""
    torch.manual_seed(seed)
    recipe = Recipe(steps=2, seed=seed)
    built = joint.build(model or joint.Model(), data)
    with Run("joint", RunConfig(dir=folder, wandb="disabled"), joint.Config(recipe=recipe)) as run:
        report(built, data, fit(built, Joint(), data, recipe, run), run)


def history(folder: Path) -> list[Row]:
    """The complete rows: a last row without a line end is still being written."""
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def numbers(rows: list[Row]) -> list[Row]:
    """The columns of W&B's rows that the history holds too: no pictures, test metrics or columns of W&B's own."""
    selected = [
        {k: v for k, v in row.items() if not k.startswith(("_", "test/")) and isinstance(v, int | float)}
        for row in rows
    ]
    return [row for row in selected if row.keys() > {"step", "epoch"}]


def without_times(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "train/images_per_second"} for row in rows]


def table(server: WandbServer, key: str) -> list[Row]:
    """The rows of a table; the artifact of the table holds its pictures."""
    (artifact,) = [artifact for artifact in server.store.artifacts if f"{key}.table.json" in artifact.contents]
    content = json.loads(server.store.content(artifact, f"{key}.table.json"))
    return [dict(zip(content["columns"], cells, strict=True)) for cells in content["data"]]


def run_command(line: str) -> None:
    """Run the upload command between backticks in a run's last line."""
    command = shlex.split(line.split("upload with `")[1].split("`")[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = str(Path(sys.executable).parent / command[0])
    subprocess.run([program, *command[1:]], env=environment, check=True, capture_output=True, timeout=60)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


def log_rows(folder: Path, patience: float = 3.0, before: Any = None, after: Any = None, steps: int = 20) -> None:
    """Log some rows in a run; `before` and `after` it, call functions that break the server."""
    with Run("joint", RunConfig(dir=folder, patience=patience)) as run:
        if before:
            before()
        for step in range(steps):
            run.log({"train/loss": math.sin(step)}, step, step / 10)
        if after:
            after()
        run.summarise({"test/mse": 0.5})


def assert_upload_completes(server: WandbServer, folder: Path, line: str) -> None:
    server.faults.clear()
    run_command(line)
    assert numbers(server.run.rows) == history(folder)
    assert server.run.summary["test/mse"] == 0.5
    assert (server.run.state, server.run.exit_code) == ("finished", 0)


class Interrupting:
    """The joint objective, with KeyboardInterrupt at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: Any, batch: Batch, step: int) -> Loss:
        if step == self.at and model.training:
            raise KeyboardInterrupt
        return Joint()(model, batch, step)


def interrupted_job(data: Splits, folder: Path, wandb: Any, resume: bool = False) -> None:
    """Run the job until an interrupt before its last step."""
    run_config = RunConfig(resume=folder, wandb=wandb) if resume else RunConfig(dir=folder, wandb=wandb)
    with pytest.raises(KeyboardInterrupt):
        job(data, run_config, Interrupting(at=3))


def resumed_job(data: Splits, folder: Path, wandb: Any) -> None:
    job(data, RunConfig(resume=folder, wandb=wandb))
