"""What tracking costs the main job: the same training untracked, offline and online, in turn.

python -m experiments.tracking_cost

On a noisy machine whole trainings differ by more than tracking costs. So it is also taken apart: the time that the
training waits for W&B (in `Run.log`, beyond what the untracked run takes there), and the processor time of W&B's own
process, from its start to its end.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
import wandb

from ae import Data, Run, RunConfig, fit
from ae.cli import cli
from ae.tracking import Mode
from experiments import joint


@dataclass(frozen=True)
class Config:
    """How long to measure. Online needs a server that W&B is logged in to."""

    rounds: int = 8  # trainings in each mode
    steps: int = 200  # steps of each training, with a row logged every 50 and a validation at the end
    modes: tuple[Mode, ...] = ("disabled", "offline", "online")  # the first is what the others are compared with


class Cost(NamedTuple):
    """Of one training, in seconds."""

    step: float
    waiting: float  # in Run.log, a step
    service: float  # processor time of W&B's process, a step
    begin: float
    end: float


def main(config: Config) -> None:
    """Measure, and print a row for each mode."""
    costs: dict[Mode, list[Cost]] = {mode: [] for mode in config.modes}
    for number in range(config.rounds):
        for mode in config.modes if number % 2 else config.modes[::-1]:
            costs[mode].append(measure(mode, config.steps))
    print(f"{config.rounds} rounds of {config.steps} steps, {torch.get_num_threads()} threads; medians (quartiles)")
    base = costs[config.modes[0]]
    untracked = Cost(*map(median, zip(*base, strict=True)))
    for mode, measured in costs.items():
        low, ratio, high = quantiles([one.step / other.step for one, other in zip(measured, base, strict=True)], n=4)
        cost = Cost(*map(median, zip(*measured, strict=True)))
        waiting, service = (cost.waiting - untracked.waiting) / untracked.step, cost.service / untracked.step
        print(
            f"{mode:8}  {1000 * cost.step:6.2f} ms a step, {ratio:.3f} ({low:.3f} to {high:.3f}) of {config.modes[0]}; "
            f"waits {waiting:.3%}; W&B's process {service:.2%}; {cost.begin:.2f} s to begin, {cost.end:.2f} s to end"
        )


def measure(mode: Mode, steps: int) -> Cost:
    """One training of the main job's model."""
    job = joint.Config()
    data = Data("mnist", limit=20_000, validation=1000, augment=job.data.augment).load()
    recipe = replace(job.recipe, steps=steps)
    torch.manual_seed(0)
    model = joint.build(job.model, data)
    service_before = _service_seconds()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = Run("cost", RunConfig(dir=Path(folder, "run"), wandb=mode), job)
        begin = time.perf_counter() - began
        logging: list[float] = []
        run.log = _timed(run.log, logging)  # type: ignore[method-assign]
        results = fit(model, job.objective, data, recipe, run)
        ended = time.perf_counter()
        run.finish()
        end = time.perf_counter() - ended
        wandb.teardown()  # its process ends, and is waited for
    service = _service_seconds() - service_before
    return Cost(recipe.batch_size / results["images_per_second"], sum(logging) / steps, service / steps, begin, end)


def _timed(function: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    def timed(*args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        function(*args, **kwargs)
        seconds.append(time.perf_counter() - began)

    return timed


def _service_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli(main)
