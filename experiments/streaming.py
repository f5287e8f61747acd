"""What reading images from disk costs a training: loader alone, step alone, and both.   python -m experiments.streaming

Real digits as PNG files, resized when they are read. With workers, reading and training overlap as far as there are
cores; without them, images/s would be 1 / (1/loader + 1/step).
"""

import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from ae import Data, Images, fit
from ae.cli import cli
from ae.utils.validation import AtLeast0, Positive, Settings
from experiments import joint


@dataclass(frozen=True)
class Config(Settings):
    """How much to measure."""

    rounds: Positive[int] = 5  # in each, the three are measured in turn
    images: Positive[int] = 6400  # in files
    size: Positive[int] = 28  # pixels that they are resized to
    original: Positive[int] = 64  # pixels that they are stored with
    workers: AtLeast0[int] = 2  # processes that read ahead


def main(config: Config) -> None:
    """Measure, and print medians of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), config)
        streamed = Data("folder", Path(folder), size=config.size, validation=0, stream=True, workers=config.workers)
        held = replace(streamed, stream=False, workers=Data.workers)
        loader, step, both = [], [], []
        for _ in range(config.rounds):
            loader.append(load_only(streamed))
            step.append(train(held))
            both.append(train(streamed))
    serial = 1 / (1 / median(loader) + 1 / median(step))
    print(f"{config.images:,} files, {config.workers} workers, {torch.get_num_threads()} threads")
    print(f"loader alone     {median(loader):8,.0f} images/s")
    print(f"training, held   {median(step):8,.0f} images/s")
    print(f"training, read   {median(both):8,.0f} images/s, {median(both) / serial:.2f} of one after the other")


def write_files(folder: Path, config: Config) -> None:
    """Digits, enlarged, as PNG files in a folder of their class."""
    from PIL import Image

    digits = Data("mnist", limit=config.images).load().train
    assert isinstance(digits, Images)
    for i, (pixels, label) in enumerate(zip(digits.pixels, digits.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[0].numpy()).resize((config.original, config.original)).save(path)


def load_only(data: Data) -> float:
    """Images a second of reading batches and nothing else."""
    job = joint.Config()
    batches = data.load().batches(job.recipe.batch_size, seed=0)
    stream = batches.starting_at(0)
    next(stream)  # the workers have begun
    began = time.perf_counter()
    seen = sum(len(batch) for batch in islice(stream, len(batches)))
    return seen / (time.perf_counter() - began)


def train(data: Data) -> float:
    """Images a second of the main job's training, over two epochs."""
    job = joint.Config()
    splits = data.load()
    torch.manual_seed(0)
    model = joint.build(job.model, splits)
    return fit(model, job.objective, splits, replace(job.recipe, epochs=2))["images_per_second"]


if __name__ == "__main__":
    cli(main)
