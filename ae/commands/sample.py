"""Images sampled from a generative run.   ae sample RUN --to samples.png

From the prior of its bottleneck, the prior over its indices, or its generator. RUN is a run's folder, a file of
weights, wandb:entity/project/artifact:alias, or hf:user/name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ae.cli import Positional
from ae.evaluation.plots import grid_picture
from ae.evaluation.sampling import sample
from ae.utils.distributed import on_main
from ae.utils.errors import InputError
from ae.utils.validation import Positive, Settings

_COLUMNS = 10


@dataclass(frozen=True)
class Config(Settings):
    """Run to sample from, number of images, and file to write."""

    run: Positional[str]  # a run's folder, a file of weights, wandb:entity/project/artifact:alias, or hf:user/name
    to: Path  # file to write: .png, a grid of all images; .npy, floats [n c h w] in [0, 1]
    count: Positive[int] = 80  # images
    seed: int = 0  # the same seed gives the same images


@on_main
def main(config: Config) -> None:
    """Sample, and write the images."""
    if config.to.suffix not in (".png", ".npy"):
        raise InputError(f"Config.to must be a file .png or .npy, got {config.to}")
    images = sample(config.run, config.count, config.seed)
    config.to.parent.mkdir(parents=True, exist_ok=True)
    if config.to.suffix == ".npy":
        np.save(config.to, images.numpy())
        print(f"file {config.to}")
        return
    blank = images.new_ones(-len(images) % min(_COLUMNS, len(images)), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (-1, min(_COLUMNS, len(images))))
    grid_picture(grid, f"{config.count} samples of {config.run}").save(config.to)
    print(f"look {config.to}")
