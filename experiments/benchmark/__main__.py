"""How fast is it, and against what?   python -m experiments.benchmark

Contenders train in turn, a few steps each, in one process; what is slow on a busy machine is slow for all. Then: a
start of the main job, evaluation, what grows with the data, the batch and the image, and the time to a good model.
Pythae and Lightning take part where they are installed. Prints tables, and writes all that was measured to --to.
"""

import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import torch

from ae import Data, evaluate
from ae.cli import cli
from ae.utils.files import write_whole
from ae.utils.validation import Positive, Settings
from experiments.benchmark import contenders, growth, peers, quality, start
from experiments.benchmark.turns import Contender, take_turns


@dataclass(frozen=True)
class Config(Settings):
    """How much to measure."""

    rounds: Positive[int] = 40  # turns of each contender
    steps: Positive[int] = 43  # of a turn; 40 turns are two epochs
    starts: Positive[int] = 5  # of the main job
    sizes: tuple[int, ...] = (6_000, 60_000, 600_000)  # images in the data set
    batches: tuple[int, ...] = (64, 128, 256, 512, 1024)  # images a step
    sides: tuple[int, ...] = (28, 64, 128)  # pixels
    growth_images: int = 6400  # trained on in each of these
    evaluations: int = 5
    epochs: int = 10  # the user's loop has, to be good
    seeds: tuple[int, ...] = (0, 1, 2)  # of our recipe for that
    accuracy: float = 0.99  # on the test set, that is good
    mse: float = 0.006  # on the test set, that is good
    to: Path = Path("runs/benchmark.json")


def main(config: Config) -> None:
    """Measure, print and write."""
    measured: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "batch_size": contenders.RECIPE.batch_size,
    }
    print(", ".join(f"{key} {value}" for key, value in measured.items()))
    with tempfile.TemporaryDirectory() as folder:
        contenders.unpack_mnist(Path(folder))
        measured["step"] = turns(config, Path(folder))
        measured["evaluation"] = evaluation(config.evaluations)
        measured["start"] = starts(config.starts)
        measured["growth"] = growth.measure(config.sizes, config.batches, config.sides, config.growth_images)
        measured["quality"] = to_quality(config, Path(folder))
    config.to.parent.mkdir(parents=True, exist_ok=True)
    write_whole(config.to, json.dumps(measured, indent=1).encode())
    print(f"look {config.to}")


def turns(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds a step of all who are there, round by round."""
    players: dict[str, Contender] = {
        "textbook": partial(contenders.textbook, folder),
        "ours": partial(contenders.ours, contenders.JOINT, True),
        "bare": contenders.bare,
        "matrices": contenders.matrices,
        "ours, reconstruction": partial(contenders.ours, contenders.RECONSTRUCTION, False),
    }
    if peers.installed("pythae"):
        players["Pythae, reconstruction"] = peers.pythae
    if peers.installed("lightning"):
        players["Lightning, reconstruction"] = peers.lightning
    seconds = take_turns(players, config.steps, config.rounds)
    work = contenders.multiply_adds()
    seconds["limit"] = [work * one for one in seconds.pop("matrices")]
    rounds = {name: [one / config.steps for one in values] for name, values in seconds.items()}
    for name, values in rounds.items():
        against = rounds["ours, reconstruction" if "reconstruction" in name else "ours"]
        ratios = [one / our for one, our in zip(values, against, strict=True)]
        print(
            f"{name:26} {1000 * median(values):7.2f} ms a step {spread(values, 1000)}, "
            f"{contenders.RECIPE.batch_size / median(values):8,.0f} images/s; against ours {median(ratios):.3f} "
            f"{spread(ratios)}, of the sums {sum(values) / sum(against):.3f}"
        )
    limits = [limit / bare for limit, bare in zip(rounds["limit"], rounds["bare"], strict=True)]
    print(f"fraction of the limit {median(limits):.3f} {spread(limits)}", flush=True)
    return rounds


def spread(values: list[float], scale: float = 1) -> str:
    """The quartiles."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"({scale * low:.3g} to {scale * high:.3g})"


def evaluation(rounds: int) -> list[float]:
    """Images a second of `evaluate`, with SSIM and all that it measures, on the validation images."""
    data = Data("mnist").load()
    assert data.validation is not None
    model = contenders.build(data, contenders.JOINT).to(memory_format=torch.channels_last)
    speeds = []
    for _ in range(rounds):
        began = time.perf_counter()
        evaluate(model, data.validation, contenders.JOINT)
        speeds.append(len(data.validation) / (time.perf_counter() - began))
    print(f"evaluation {median(speeds):,.0f} images/s {spread(speeds)}", flush=True)
    return speeds


def starts(count: int) -> list[start.Start]:
    """Starts of the main job, one after the other."""
    measured = [start.measure() for _ in range(count)]
    seconds, megabytes = zip(*measured, strict=True)
    print(f"first step after {median(seconds):.1f} s {spread(list(seconds))}, {max(megabytes):,.0f} MB", flush=True)
    return measured


def to_quality(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds of training until accuracy and error are good, by the loop of a user and by ours."""
    found = {
        "textbook": [quality.textbook(folder, config.accuracy, config.mse, config.epochs)],
        "ours": [quality.ours(seed) for seed in config.seeds],
    }
    for name, runs in found.items():
        print(
            f"{name:9} {median(run.seconds for run in runs):6.1f} s, {runs[0].epochs:.1f} epochs: "
            f"accuracy {fmean(run.accuracy for run in runs):.2%} ({min(run.accuracy for run in runs):.2%} at least), "
            f"MSE {fmean(run.mse for run in runs):.5f} ({max(run.mse for run in runs):.5f} at most)",
            flush=True,
        )
    return {name: [asdict(run) for run in runs] for name, runs in found.items()}


if __name__ == "__main__":
    cli(main)
