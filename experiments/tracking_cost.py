"""What tracking costs the main job's training, offline and online.   python -m experiments.tracking_cost

On a noisy machine whole trainings differ by more than tracking costs. So one training alternates: a row is tracked,
two are not, one is, and the times from a row to the next are compared, pair by pair. What W&B's own process does later
is not in that; its processor time is shown beside it, from its start to its end.
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
    """How long to measure. Online needs a server that W&B is logged in to."""

    steps: Positive[int] = 6000  # of a training in each mode
    log_every: Positive[int] = 50  # steps between rows
    modes: tuple[Mode, ...] = ("offline", "online")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 9 * self.log_every:
            raise InputError(f"steps must be at least 9 times log_every, {9 * self.log_every}, got {self.steps}")


class Cost(NamedTuple):
    """Of one training; times in seconds."""

    ratios: list[float]  # of each pair of neighbours: from a tracked row to the next, over from an untracked one
    waiting: float  # in Run.log, a step, beyond what an untracked row takes there
    service: float  # processor time of W&B's process, a step
    step: float
    begin: float
    end: float


class Alternating(Run):
    """A run that tracks two rows of every four: the first and the last, to come first in half of the pairs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: list[tuple[float, float]] = []  # when a row was begun and done

    def log(self, row: Mapping[str, float | int], *args: Any, **kwargs: Any) -> None:
        """Log a row, tracked or not."""
        tracker, began = self._tracker, time.perf_counter()
        if len(self.times) % 4 in (1, 2):
            self._tracker = None
        super().log(row, *args, **kwargs)
        self._tracker = tracker
        self.times.append((began, time.perf_counter()))


def main(config: Config) -> None:
    """Measure, and print a row for each mode."""
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
    """One training of the main job's model."""
    job = joint.Config()
    data = Data("mnist", limit=450 * 128, validation=0, augment=job.data.augment).load()  # epochs end on a row
    recipe = replace(job.recipe, steps=steps, log_every=log_every, evaluate_every=steps)
    torch.manual_seed(0)
    model = joint.build(job.model, data)
    service_before = _service_seconds()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = Alternating("cost", RunConfig(dir=Path(folder, "run"), wandb=mode), job)
        begin = time.perf_counter() - began
        results = fit(model, job.objective, data, recipe, run)
        ended = time.perf_counter()
        run.finish()
        end = time.perf_counter() - ended
        wandb.teardown()  # its process ends, and is waited for
    service = (_service_seconds() - service_before) / steps
    step = recipe.batch_size / results["images_per_second"]
    return Cost(*_compare(run.times, log_every), service, step, begin, end)


def _compare(times: list[tuple[float, float]], log_every: int) -> tuple[list[float], float]:
    """Each pair's ratio, from the beginning of a row to that of the next; and what a tracked row takes longer, a step.

    The first four rows are left out.
    """
    lasted = [after[0] - before[0] for before, after in pairwise(times)]
    ratios = []
    for i in range(4, len(lasted) - 3, 4):
        ratios += [lasted[i] / lasted[i + 1], lasted[i + 3] / lasted[i + 2]]
    logging = [done - began for began, done in times]
    tracked = median(logging[4::4] + logging[7::4])
    return ratios, (tracked - median(logging[5::4] + logging[6::4])) / log_every


def _service_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli(main)
