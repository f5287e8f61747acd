"""Scaling of `fit` with the size of the data set, the batch and the images."""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ae import Data, Images, Splits, fit
from experiments import joint
from experiments.benchmark.contenders import JOINT, RECIPE
from experiments.benchmark.start import peak_megabytes


class Cost(NamedTuple):
    """Images per second of training, and the process's peak memory without the data, in megabytes."""

    images_per_second: float
    megabytes: float


def digits(count: int, side: int = 28) -> Images:
    """Return `count` digits of the training set, repeated as needed, of `side` x `side` pixels."""
    train_images = Data("mnist", validation=0, limit=min(count, 60_000)).load().train
    assert isinstance(train_images, Images)
    pixels = train_images.pixels
    if side != 28:
        pixels = F.interpolate(pixels.float(), size=(side, side), mode="bilinear").round().to(torch.uint8)
    repeated = torch.empty(count, 1, side, side, dtype=torch.uint8)
    for part in repeated.split(len(pixels)):
        part.copy_(pixels[: len(part)])
    return Images(repeated, train_images.labels.repeat(-(-count // len(pixels)))[:count], train_images.classes)


def train(images: int, batch_size: int, side: int, steps: int, options: Mapping[str, Any]) -> Cost:
    """Train the main job's model for `steps` steps, with options of the recipe; on CUDA, the memory is the device's."""
    data = Splits(digits(images, side))
    torch.manual_seed(0)
    model = joint.build(joint.Model(), data)
    recipe = replace(RECIPE, steps=steps, batch_size=batch_size, log_every=steps, **options)
    results = fit(model, JOINT, data, recipe)
    data_bytes = data.train.pixels.nbytes + data.train.labels.nbytes  # type: ignore[attr-defined]
    on_cuda = next(model.parameters()).is_cuda
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_cuda else peak_megabytes("self")
    return Cost(results["images_per_second"], peak - data_bytes / 1e6)


def in_new_process(
    options: Mapping[str, Any], images: int = 6400, batch_size: int = 64, side: int = 28, steps: int = 100
) -> Cost:
    """Train in a new process, so that its peak memory is measured alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, images, batch_size, side, steps, options).result()


def measure(
    sizes: Sequence[int], batches: Sequence[int], sides: Sequence[int], images: int, device: str
) -> dict[str, dict[int, Cost]]:
    """Measure each size in turn, each by training on `images` images."""
    steps = -(-images // RECIPE.batch_size)
    fp32 = {"device": device}
    bf16 = {**fp32, "precision": "bf16"}
    results = {
        "images": {size: in_new_process(fp32, images=size, steps=steps) for size in sizes},
        "batch": {size: in_new_process(fp32, images, batch_size=size, steps=-(-images // size)) for size in batches},
        "side": {side: in_new_process(fp32, images, side=side, steps=steps) for side in sides},
        "side, bf16": {side: in_new_process(bf16, images, side=side, steps=steps) for side in sides},
    }
    for name, costs in results.items():
        for value, cost in costs.items():
            print(
                f"{name} {value:7,}: {cost.images_per_second:7,.0f} images/s, {cost.megabytes:5,.0f} MB beyond the data"
            )
    return results
