"""What `fit` costs as the data grow, the batch grows, and the images grow."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ae import Data, Images, Splits, fit
from experiments import joint
from experiments.benchmark.contenders import JOINT, RECIPE
from experiments.benchmark.start import peak_megabytes


class Cost(NamedTuple):
    """Of a training: images a second, and the process's peak memory beyond the data, in megabytes."""

    images_per_second: float
    megabytes: float


def digits(count: int, side: int = 28) -> Images:
    """So many digits of the training set, again and again, `side` pixels square."""
    some = Data("mnist", validation=0, limit=min(count, 60_000)).load().train
    assert isinstance(some, Images)
    pixels = some.pixels
    if side != 28:
        pixels = F.interpolate(pixels.float(), size=(side, side), mode="bilinear").round().to(torch.uint8)
    grown = torch.empty(count, 1, side, side, dtype=torch.uint8)
    for part in grown.split(len(pixels)):
        part.copy_(pixels[: len(part)])
    return Images(grown, some.labels.repeat(-(-count // len(some)))[:count], some.classes)


def train(images: int, batch_size: int, side: int, steps: int) -> Cost:
    """The main job's model, trained for some steps."""
    data = Splits(digits(images, side))
    torch.manual_seed(0)
    model = joint.build(joint.Model(), data)
    results = fit(model, JOINT, data, replace(RECIPE, steps=steps, batch_size=batch_size, log_every=steps))
    held = data.train.pixels.nbytes + data.train.labels.nbytes  # type: ignore[attr-defined]
    return Cost(results["images_per_second"], peak_megabytes("self") - held / 1e6)


def apart(images: int = 6400, batch_size: int = 64, side: int = 28, steps: int = 100) -> Cost:
    """The same in a process of its own, so that its memory is its own too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, images, batch_size, side, steps).result()


def measure(
    sizes: Sequence[int], batches: Sequence[int], sides: Sequence[int], images: int
) -> dict[str, dict[int, Cost]]:
    """Each in turn, on `images` images or that many of a larger set."""
    steps = -(-images // RECIPE.batch_size)
    found = {
        "images": {size: apart(images=size, steps=steps) for size in sizes},
        "batch": {size: apart(images, batch_size=size, steps=-(-images // size)) for size in batches},
        "side": {side: apart(images, side=side, steps=steps) for side in sides},
    }
    for name, costs in found.items():
        for value, cost in costs.items():
            print(
                f"{name} {value:7,}: {cost.images_per_second:7,.0f} images/s, {cost.megabytes:5,.0f} MB beyond the data"
            )
    return found
