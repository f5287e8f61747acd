"""Finished runs for comparisons, written without training."""

from pathlib import Path
from typing import Any

from PIL import Image

from ae import Recipe, Run, RunConfig
from ae.compare import Record
from ae.tracking.media import Media
from experiments.joint import Config, Model


def make_run(
    folder: Path,
    metrics: dict[str, float] | None = None,
    seed: int = 0,
    latent: int | None = None,
    steps: int = 3,
    config: Any = None,
) -> Run:
    """Write a finished run with these test metrics; without metrics, a run that stopped before its test."""
    config = config or Config(model=Model(latent=latent), recipe=Recipe(seed=seed))
    with Run("joint", RunConfig(dir=folder, wandb="disabled"), config) as run:
        log(run, range(1, steps + 1))
        if metrics is not None:
            shade = (latent or 0) % 256
            run.summarise(metrics, Media({"reconstructions": Image.new("RGB", (90, 30), (shade, shade, 255))}))
    return run


def log(run: Run, steps: range) -> None:
    for step in steps:
        row = {"train/loss": 1 / step, "val/mse": 0.1 / step, "val/accuracy": 1 - 1 / (step + 1), "val/accuracy/3": 0.5}
        run.log(row, step, step / 2)


def record(name: str, metrics: dict[str, int | float], **config: object) -> Record:
    """Create a record; `__` in the name of a setting is a dot."""
    settings = {key.replace("__", "."): value for key, value in config.items()}
    return Record(name, f"runs/{name}", "finished", settings, metrics)
