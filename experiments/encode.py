"""Codes, logits, labels and reconstructions of any images.   python -m experiments.encode RUN --to FOLDER

Of the data set that the run was trained on, of another one (--data.name ...), or of all images in a folder and below
it (--images FOLDER), which are resized and cropped to what the model was trained on.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ae import Augment, Data, ImageSet, Recipe, Streamed, load
from ae.cli import Positional, cli, parse_part
from ae.data.files import open_files
from ae.data.scan import images_below
from ae.evaluation.extract import Format, Part, encode
from ae.models.autoencoder import Autoencoder
from ae.runs.folder import read_config
from ae.utils.distributed import on_main
from ae.utils.errors import InputError
from ae.utils.files import write_whole
from ae.utils.validation import AtLeast0, Positive, Settings


@dataclass(frozen=True)
class Config(Settings):
    """Which model, which images, and what is written where."""

    run: Positional[str]  # a run's folder, a file of weights, or wandb:entity/project/artifact:alias
    to: Path  # folder to write to
    data: Data = Data()  # the data set (default: the run's own)
    split: Literal["train", "validation", "test"] = "test"  # which of its images
    images: Path | None = None  # encode all images in this folder and below it, instead of a data set
    workers: AtLeast0[int] = 2  # processes that decode these
    skip_broken: bool = False  # leave out those that can't be read, and say which
    parts: tuple[Part, ...] = ("codes", "logits", "labels", "reconstructions")  # what is written
    format: Format = "safetensors"  # safetensors: one file; npy: one for each part
    batch_size: Positive[int] = 256  # images at a time
    device: str = "auto"  # auto: cuda, mps or cpu, the first there is


@on_main
def main(config: Config) -> None:
    """Load, encode, and say how fast that was."""
    model = load(config.run).to(Recipe(device=config.device).find_device())
    images, names = _images(config, model)
    if not config.parts:
        raise InputError("nothing to write: parts is empty")
    parts = tuple(part for part in config.parts if part != "reconstructions" or model.decoder is not None)
    began = time.perf_counter()
    files = encode(model, images, config.to, parts, config.format, config.batch_size)
    seconds = time.perf_counter() - began
    if names:
        write_whole(config.to / "names.json", json.dumps(names).encode())
        files.append(config.to / "names.json")
    print(f"{len(images):,} images in {seconds:.1f} s, {len(images) / seconds:,.0f} images/s")
    for file in files:
        print(f"file {file}")


def _images(config: Config, model: Autoencoder) -> tuple[ImageSet, list[str]]:
    """The images, and the names of their files where they have some."""
    if config.images is not None:
        if config.data != Data() or config.split != Config.split:
            raise InputError("Config.images takes the place of Config.data and Config.split: leave these out")
        return _below(config.images, model, config.workers, config.skip_broken)
    if config.workers != Config.workers or config.skip_broken:
        raise InputError("Config.workers and Config.skip_broken are read with Config.images only: leave them out")
    data = config.data
    run = Path(config.run)
    if data == Data() and (run / "config.json").exists():
        data = parse_part(Data, read_config(run)["config"].get("data", {}))
    splits = replace(data, augment=Augment()).load()
    match config.split:
        case "train":
            return splits.train, []
        case "validation" if splits.validation is not None:
            return splits.validation, []
        case "test" if splits.test is not None:
            return splits.test(), []
    raise InputError(f"the data set has no {config.split} images")


def _below(folder: Path, model: Autoencoder, workers: int, skip_broken: bool) -> tuple[ImageSet, list[str]]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: Config.images takes a folder of images")
    paths = images_below(folder)
    if not paths:
        raise InputError(f"no images in {folder} or below it")
    if model.image_shape is None:
        raise InputError("the file of weights does not say what images the model takes; it was written in format 1")
    channels, height, width = model.image_shape
    if height != width:
        raise InputError(f"images of a folder are made square, and the model takes {height}x{width}")
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise InputError(f"images have 1 or 3 channels, and the model takes {channels}")
    files = open_files(paths, [-1] * len(paths), height, mode, skip_broken=skip_broken)
    labels = torch.full((len(files),), -1)
    images = Streamed(files, labels, (), (channels, height, width), workers)
    return images, [str(path.relative_to(folder)) for path in files.paths]


if __name__ == "__main__":
    cli(main)
