"""What the tests of tracking share: a small run to track, and how to read what became of it."""

import json
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
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
    report,
)
from ae.training.fit import Objective
from experiments import joint
from tests.helpers import ROOT
from tests.helpers.wandb_server import WandbServer

Row = dict[str, Any]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def job(data: Splits, where: RunConfig, objective: Objective | None = None) -> None:
    """The main job's steps on a few real digits and with a narrow model: 4 steps, state and validation at 2 and 4."""
    torch.manual_seed(0)
    heads = {"digit": Classifier((8, 7, 7))}
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads=heads)
    recipe = Recipe(steps=4, batch_size=128, evaluate_every=2, log_every=1)
    with Run("joint", where, {"recipe": recipe, "model": {"channels": (4, 8)}}) as run:
        report(model, data, fit(model, objective or Joint(), data, recipe, run), run)


def main_job(data: Splits, folder: Path, model: joint.Model | None = None, seed: int = 0) -> None:
    """The main job's model as it is, trained for an instant and tested on a few real digits."""
    torch.manual_seed(seed)
    recipe = Recipe(steps=2, seed=seed)
    built = joint.build(model or joint.Model(), data)
    with Run("joint", RunConfig(dir=folder, wandb="disabled"), joint.Config(recipe=recipe)) as run:
        report(built, data, fit(built, Joint(), data, recipe, run), run)


def history(folder: Path) -> list[Row]:
    """The rows that are whole: one may be about to be written."""
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def numbers(rows: list[Row]) -> list[Row]:
    """What the history holds of W&B's rows: not W&B's own columns, pictures, or what the test at the end adds."""
    kept = [
        {k: v for k, v in row.items() if not k.startswith(("_", "test/")) and isinstance(v, int | float)}
        for row in rows
    ]
    return [row for row in kept if row.keys() > {"step", "epoch"}]


def without_times(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "train/images_per_second"} for row in rows]


def table(server: WandbServer, key: str) -> list[Row]:
    """The rows of a table; its pictures are in the artifact with it."""
    (artifact,) = [artifact for artifact in server.store.artifacts if f"{key}.table.json" in artifact.contents]
    content = json.loads(server.store.content(artifact, f"{key}.table.json"))
    return [dict(zip(content["columns"], cells, strict=True)) for cells in content["data"]]


def run_command(line: str) -> None:
    """Runs the command between backticks that the run's last line says."""
    command = shlex.split(line.split("upload with `")[1].split("`")[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = str(Path(sys.executable).parent / command[0])
    subprocess.run([program, *command[1:]], env=environment, check=True, capture_output=True, timeout=60)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]
