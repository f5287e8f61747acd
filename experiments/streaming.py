"""Throughput of training on streamed images: loader alone, step alone, and both.   python -m experiments.streaming

MNIST digits are PNG files, resized when read. With workers, reading and training overlap if there are enough cores;
without overlap, images/s would be 1 / (1/loader + 1/step).
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
    """Size of the measurement."""

    rounds: Positive[int] = 5  # each measures loader, step and both
    images: Positive[int] = 6400  # number of files
    size: Positive[int] = 28  # side in pixels after resizing
    original: Positive[int] = 64  # side in pixels of the files
    workers: AtLeast0[int] = 2  # processes that read ahead


def main(config: Config) -> None:
    """Measure, and print medians over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), config)
        streamed = Data("folder", Path(folder), size=config.size, validation=0, stream=True, workers=config.workers)
        in_memory = replace(streamed, stream=False, workers=Data.workers)
        loader, step, both = [], [], []
        for _ in range(config.rounds):
            loader.append(load_only(streamed))
            step.append(train(in_memory))
            both.append(train(streamed))
    serial = 1 / (1 / median(loader) + 1 / median(step))
    print(f"{config.images:,} files, {config.workers} workers, {torch.get_num_threads()} threads")
    print(f"loader alone     {median(loader):8,.0f} images/s")
    print(f"training, held   {median(step):8,.0f} images/s")
    print(f"training, read   {median(both):8,.0f} images/s, {median(both) / serial:.2f} of one after the other")


def write_files(folder: Path, config: Config) -> None:
    """Write enlarged digits as PNG files, in one folder per class."""
    from PIL import Image

    digits = Data("mnist", limit=config.images).load().train
    assert isinstance(digits, Images)
    for i, (pixels, label) in enumerate(zip(digits.pixels, digits.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[0].numpy()).resize((config.original, config.original)).save(path)


def load_only(data: Data) -> float:
    """Images per second of reading batches only."""
    job = joint.Config()
    batches = data.load().batches(job.recipe.batch_size, seed=0)
    stream = batches.starting_at(0)
    next(stream)  # workers have started
    start = time.perf_counter()
    count = sum(len(batch) for batch in islice(stream, len(batches)))
    return count / (time.perf_counter() - start)


def train(data: Data) -> float:
    """Images per second of training the main job, over two epochs."""
    job = joint.Config()
    splits = data.load()
    torch.manual_seed(0)
    model = joint.build(job.model, splits)
    return fit(model, job.objective, splits, replace(job.recipe, epochs=2))["images_per_second"]


if __name__ == "__main__":
    cli(main)
