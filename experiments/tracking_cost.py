"""Cost of tracking in the main job's training, offline and online.   python -m experiments.tracking_cost

On a noisy machine whole trainings differ by more than the cost of tracking. Therefore one training alternates between
tracked and untracked rows (one tracked, two not, one tracked), and the times between rows are compared in pairs. They
exclude later work of W&B's process; the processor time of W&B's process from start to end is shown beside them.
"""

import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

import torch
import wandb

from ae import Data, Run, RunConfig, fit
from ae.cli import cli
from ae.tracking.connection import Mode
from ae.utils.errors import InputError
from ae.utils.validation import Positive, Settings
from experiments import joint


@dataclass(frozen=True)
class Config(Settings):
    """Length of the measurement. `online` needs a W&B server and a login."""

    steps: Positive[int] = 6000  # of a training in each mode
    log_every: Positive[int] = 50  # steps between rows
    modes: tuple[Mode, ...] = ("offline", "online")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 9 * self.log_every:
            raise InputError(f"steps must be at least 9 times log_every, {9 * self.log_every}, got {self.steps}")


class Cost(NamedTuple):
    """Cost in one training; times in seconds."""

    ratios: list[float]  # of neighbours: time from a tracked row to the next row, over time from an untracked row
    waiting: float  # in Run.log, a step: a tracked row's excess over an untracked row
    service: float  # processor time of W&B's process, a step
    step: float
    begin: float
    end: float


class Alternating(Run):
    """Track the first and the last of every four rows, so that the tracked row is first in half of the pairs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: list[tuple[float, float]] = []  # start and end of each `log`

    def log(self, row: Mapping[str, float | int], *args: Any, **kwargs: Any) -> None:
        """Log a row, tracked or not."""
        record = self._open()
        tracker, start = record.tracker, time.perf_counter()
        if len(self.times) % 4 in (1, 2):
            record.tracker = None
        super().log(row, *args, **kwargs)
        record.tracker = tracker
        self.times.append((start, time.perf_counter()))


def main(config: Config) -> None:
    """Measure the cost, and print a line for each mode."""
    print(f"{config.steps} steps, a row every {config.log_every}, {torch.get_num_threads()} threads")
    for mode in config.modes:
        cost = measure(mode, config.steps, config.log_every)
        error = stdev(cost.ratios) / len(cost.ratios) ** 0.5
        print(
            f"{mode:8}  {1000 * cost.step:6.2f} ms a step; tracked over untracked: mean {mean(cost.ratios):.4f} "
            f"(standard error {error:.4f}), median {median(cost.ratios):.4f}, {len(cost.ratios)} pairs; "
            f"waits {cost.waiting / cost.step:.3%}; W&B's process {cost.service / cost.step:.2%}; "
            f"{cost.begin:.2f} s to begin, {cost.end:.2f} s to end"
        )


def measure(mode: Mode, steps: int, log_every: int) -> Cost:
    """Measure the cost in one training of the main job's model."""
    job = joint.Config()
    data = Data("mnist", limit=450 * 128, validation=0, augment=job.data.augment).load()  # epochs end on a row
    recipe = replace(job.recipe, steps=steps, log_every=log_every, evaluate_every=steps)
    torch.manual_seed(0)
    model = joint.build(job.model, data)
    service_before = _service_seconds()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = Alternating("cost", RunConfig(dir=Path(folder, "run"), wandb=mode), job)
        begin = time.perf_counter() - start
        results = fit(model, job.objective, data, recipe, run)
        training_end = time.perf_counter()
        run.finish()
        end = time.perf_counter() - training_end
        wandb.teardown()  # waits for the end of W&B's process
    service = (_service_seconds() - service_before) / steps
    step = recipe.batch_size / results["images_per_second"]
    return Cost(*_compare(run.times, log_every), service, step, begin, end)


def _compare(times: list[tuple[float, float]], log_every: int) -> tuple[list[float], float]:
    """Return each pair's ratio of times between starts of rows, and a tracked row's excess in `log`, in seconds a step.

    The first four rows are left out.
    """
    durations = [after[0] - before[0] for before, after in pairwise(times)]
    ratios = []
    for i in range(4, len(durations) - 3, 4):
        ratios += [durations[i] / durations[i + 1], durations[i + 3] / durations[i + 2]]
    logging = [end - start for start, end in times]
    tracked = median(logging[4::4] + logging[7::4])
    return ratios, (tracked - median(logging[5::4] + logging[6::4])) / log_every


def _service_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli(main)
