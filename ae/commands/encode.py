"""Codes, predictions, labels and reconstructions of any images.   ae encode RUN --to FOLDER

The images are those of the run's data set, of another data set (--data.name ...), or of a folder and its subfolders
(--images FOLDER), resized and cropped to the model's size. Under `torchrun`, each process writes a shard.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ae import Augment, Data, ImageSet, Recipe, Streamed
from ae.cli import Positional, parse_part
from ae.commands.own import OwnModules
from ae.data.decode import GivenForm
from ae.data.files import open_files
from ae.data.scan import images_below
from ae.evaluation.extract import Format, Part, encode
from ae.models.autoencoder import Autoencoder
from ae.runs.folder import read_config
from ae.utils.distributed import is_main
from ae.utils.errors import InputError
from ae.utils.files import write_whole
from ae.utils.shared_memory import once_per_machine
from ae.utils.validation import AtLeast0, Positive


@dataclass(frozen=True)
class Config(OwnModules):
    """Model, images and output of an encoding."""

    run: Positional[str]  # a run's folder, a file of weights, wandb:entity/project/artifact:alias, or hf:user/name
    to: Path  # folder to write to
    data: Data = Data()  # the data set (default: the run's own)
    split: Literal["train", "validation", "test"] = "test"  # split of the data set
    images: Path | None = None  # folder of images, with its subfolders, instead of a data set
    workers: AtLeast0[int] = 2  # processes that decode these images
    skip_broken: bool = False  # skip and name images that can't be read
    parts: tuple[Part, ...] = ("codes", "predictions", "labels", "reconstructions")  # parts to write
    format: Format = "safetensors"  # safetensors: one file; npy: a file for each part
    batch_size: Positive[int] = 256  # images at a time
    device: str = "auto"  # auto: the first available of cuda, mps and cpu


def main(config: Config) -> None:
    """Load the model, encode the images, and print the throughput; several processes write a shard each."""
    model = config.load(config.run).to(Recipe(device=config.device).find_device())
    images, names = _images(config, model)
    if not config.parts:
        raise InputError("nothing to write: parts is empty")
    parts = tuple(part for part in config.parts if part != "reconstructions" or model.decoder is not None)
    started = time.perf_counter()
    files = encode(model, images, config.to, parts, config.format, config.batch_size)
    seconds = time.perf_counter() - started
    if not is_main():
        return
    if names:
        write_whole(config.to / "names.json", json.dumps(names).encode())
        files.append(config.to / "names.json")
    print(f"{len(images):,} images in {seconds:.1f} s, {len(images) / seconds:,.0f} images/s")
    for file in files:
        print(f"file {file}")


def _images(config: Config, model: Autoencoder) -> tuple[ImageSet, list[str]]:
    """Return the images, and the names of their files if they are in a folder."""
    if config.images is not None:
        if config.data != Data() or config.split != Config.split:
            raise InputError("Config.images takes the place of Config.data and Config.split: leave these out")
        folder = config.images
        return once_per_machine(lambda: _images_in(folder, model, config.workers, config.skip_broken))
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


def _images_in(folder: Path, model: Autoencoder, workers: int, skip_broken: bool) -> tuple[ImageSet, list[str]]:
    """Return the images in a folder and its subfolders, and the names of their files."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: Config.images takes a folder of images")
    paths = images_below(folder)
    if not paths:
        raise InputError(f"no images in {folder} or below it")
    if model.image_shape is None:
        raise InputError("the file of weights does not say what images the model takes; it was written in format 1")
    channels, height, width = model.image_shape
    if channels not in (1, 3):
        raise InputError(f"images have 1 or 3 channels, and the model takes {channels}")
    files = open_files(paths, [-1] * len(paths), GivenForm((height, width), channels), skip_broken=skip_broken)
    labels = torch.full((len(files),), -1)
    images = Streamed(files, labels, (), files.form.tensor_shape, workers)
    return images, [str(path.relative_to(folder)) for path in files.paths]
