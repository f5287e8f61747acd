"""Benchmark of speed, memory and time to accuracy.   python -m experiments.benchmark

Contenders train alternately, a few steps per turn, each in a process of its own, so that load on the machine slows all
alike. Then follow evaluation, the start of the main job, scaling with data, batch and image size, and the time to a
target accuracy and MSE. Pythae and Lightning are optional baselines. Prints tables, and writes every measurement to
--to.
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
from ae.evaluation.inference import evaluating
from ae.utils.files import write_whole
from ae.utils.validation import Positive, Settings
from experiments.benchmark import contenders, growth, peers, quality, start
from experiments.benchmark.turns import Contender, take_turns


@dataclass(frozen=True)
class Config(Settings):
    """Configuration: the size of each measurement."""

    device: str = "cpu"  # of all trainings
    rounds: Positive[int] = 40  # turns per contender
    steps: Positive[int] = 43  # per turn; 40 turns are two epochs
    starts: Positive[int] = 5  # of the main job
    sizes: tuple[int, ...] = (6_000, 60_000, 600_000)  # images in the data set
    batches: tuple[int, ...] = (64, 128, 256, 512, 1024)  # images per step
    sides: tuple[int, ...] = (28, 64, 128)  # height and width in pixels
    growth_images: int = 6400  # trained on in each scaling measurement
    evaluations: int = 5
    epochs: int = 10  # at most, of the textbook loop to the targets
    seeds: tuple[int, ...] = (0, 1, 2)  # of the fast recipe
    accuracy: float = 0.99  # target on the test set
    mse: float = 0.006  # target on the test set
    to: Path = Path("runs/benchmark.json")


def main(config: Config) -> None:
    """Measure, print and save."""
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if config.device.startswith("cuda") else config.device,
        "batch_size": contenders.RECIPE.batch_size,
    }
    print(", ".join(f"{key} {value}" for key, value in results.items()))
    with tempfile.TemporaryDirectory() as folder:
        contenders.unpack_mnist(Path(folder))
        results["step"] = turns(config, Path(folder))
        results["evaluation"] = evaluation(config.evaluations, config.device)
        results["start"] = starts(config.starts, config.device)
        results["short"] = short_runs(config.starts, config.device)
        results["growth"] = growth.measure(
            config.sizes, config.batches, config.sides, config.growth_images, config.device
        )
        results["quality"] = to_quality(config, Path(folder))
    config.to.parent.mkdir(parents=True, exist_ok=True)
    write_whole(config.to, json.dumps(results, indent=1).encode())
    print(f"look {config.to}")


def turns(config: Config, folder: Path) -> dict[str, Any]:
    """Measure the seconds per step of each installed contender, by round."""
    fp32 = {"device": config.device}
    bf16 = {**fp32, "precision": "bf16"}
    trainers: dict[str, Contender] = {
        "textbook": partial(contenders.textbook, folder, config.device),
        "ours": partial(contenders.ours, contenders.JOINT, True, fp32),
        "ours, bf16": partial(contenders.ours, contenders.JOINT, True, bf16),
        "bare": partial(contenders.bare, config.device),
        "matrices": partial(contenders.matrices, config.device),
        "ours, reconstruction": partial(contenders.ours, contenders.RECONSTRUCTION, False, fp32),
        "ours, reconstruction, bf16": partial(contenders.ours, contenders.RECONSTRUCTION, False, bf16),
    }
    if config.device != "cpu":  # on this CPU, compiled code is no faster (`experiments/LOG.md`)
        trainers["ours, compiled"] = partial(contenders.ours, contenders.JOINT, True, {**fp32, "compile": True})
    if peers.installed("pythae"):
        trainers["Pythae, reconstruction"] = partial(peers.pythae, config.device)
    if peers.installed("lightning"):
        trainers["Lightning, reconstruction"] = partial(peers.lightning, config.device)
    seconds = take_turns(trainers, config.steps, config.rounds)
    work = contenders.multiply_adds()
    seconds["limit"] = [work * product for product in seconds.pop("matrices")]
    rounds = {name: [value / config.steps for value in values] for name, values in seconds.items()}
    for name, values in rounds.items():
        reference = rounds["ours, reconstruction" if "reconstruction" in name else "ours"]
        ratios = [value / ours for value, ours in zip(values, reference, strict=True)]
        print(
            f"{name:26} {1000 * median(values):7.2f} ms a step {spread(values, 1000)}, "
            f"{contenders.RECIPE.batch_size / median(values):8,.0f} images/s; against ours {median(ratios):.3f} "
            f"{spread(ratios)}, of the sums {sum(values) / sum(reference):.3f}"
        )
    limits = [limit / bare for limit, bare in zip(rounds["limit"], rounds["bare"], strict=True)]
    print(f"fraction of the limit {median(limits):.3f} {spread(limits)}", flush=True)
    return rounds


def spread(values: list[float], scale: float = 1) -> str:
    """Format the quartiles."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"({scale * low:.3g} to {scale * high:.3g})"


def evaluation(rounds: int, device: str) -> dict[str, list[float]]:
    """Measure images per second of `evaluate`, with SSIM and all other metrics, and of the model's forward pass."""
    data = Data("mnist").load().to(torch.device(device))
    images = data.validation
    assert images is not None
    model: Any = contenders.build(data, contenders.JOINT).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward() -> None:
        with evaluating(model):
            results = [model(batch.images).predictions["digit"].argmax(1) for batch in images.in_order(256)]
            torch.cat(results).cpu()

    speeds: dict[str, list[float]] = {"evaluate": [], "forward": []}
    for _ in range(rounds + 1):  # the first is a warm-up
        for name, measured in (("evaluate", partial(evaluate, model, images, contenders.JOINT)), ("forward", forward)):
            start_time = time.perf_counter()
            measured()
            speeds[name].append(len(images) / (time.perf_counter() - start_time))
    speeds = {name: values[1:] for name, values in speeds.items()}
    ratios = [forward / ours for ours, forward in zip(speeds["evaluate"], speeds["forward"], strict=True)]
    print(
        f"evaluation {median(speeds['evaluate']):,.0f} images/s {spread(speeds['evaluate'])}, "
        f"{median(ratios):.2f} {spread(ratios)} times the forward pass",
        flush=True,
    )
    return speeds


def starts(count: int, device: str) -> list[start.Start]:
    """Measure starts of the main job, one at a time."""
    measured = [start.measure("--recipe.device", device) for _ in range(count)]
    seconds, megabytes = zip(*measured, strict=True)
    print(f"first step after {median(seconds):.1f} s {spread(list(seconds))}, {max(megabytes):,.0f} MB", flush=True)
    return measured


def short_runs(count: int, device: str) -> list[start.Short]:
    """Measure runs of 10 steps and the imports that they can't do without, in turn."""
    measured = [start.short_run("--recipe.device", device) for _ in range(count)]
    ratios = [each.run / each.imports for each in measured]
    print(
        f"10 steps in {median(each.run for each in measured):.1f} s, {median(ratios):.2f} {spread(ratios)} times the "
        "import of torch and wandb",
        flush=True,
    )
    return measured


def to_quality(config: Config, folder: Path) -> dict[str, Any]:
    """Measure the training seconds to the target accuracy and MSE, by the textbook loop and by ours."""
    results = {
        "textbook": [quality.textbook(folder, config.device, config.accuracy, config.mse, config.epochs)],
        "ours": [quality.ours(seed, config.device) for seed in config.seeds],
    }
    for name, runs in results.items():
        print(
            f"{name:9} {median(run.seconds for run in runs):6.1f} s, {runs[0].epochs:.1f} epochs: "
            f"accuracy {fmean(run.accuracy for run in runs):.2%} ({min(run.accuracy for run in runs):.2%} at least), "
            f"MSE {fmean(run.mse for run in runs):.5f} ({max(run.mse for run in runs):.5f} at most)",
            flush=True,
        )
    return {name: [asdict(run) for run in runs] for name, runs in results.items()}


if __name__ == "__main__":
    cli(main)
