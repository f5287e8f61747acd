"""Search over an experiment's flags, with no server.   python -m experiments.sweep experiments/sweeps/FILE.yaml

The file is one for `wandb sweep`. Trials run side by side, and share the cores. Start it on several machines that share
the folder to work on one study together; start it again after a kill, and it goes on with the trials that were running.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ae.cli import Positional, cli
from ae.compare import compare, read_runs, table, verdict
from ae.sweeps import Study, read_sweep
from ae.tracking.connection import Mode
from ae.utils.cores import core_count, free_memory
from ae.utils.errors import InputError
from ae.utils.signals import Ending
from ae.utils.validation import Positive, Settings

_BYTES_PER_TRIAL = 2**31


@dataclass(frozen=True)
class Config(Settings):
    """What to search, and where to keep it. Needs the extra `sweep`."""

    file: Positional[Path]  # the sweep's file
    dir: Path | None = None  # the study's folder (default: runs/NAME, by the file's name)
    runs: Positive[int] | None = None  # trials in all (default: the file's run_cap; of a grid, its number of points)
    jobs: Positive[int] | None = None  # trials side by side (default: on a CPU one a core, if the memory suffices)
    wandb: Mode = "auto"  # of each trial; they are a group in W&B


def main(config: Config) -> None:
    """Work on the study until no trial is left, then compare them, and name the best."""
    sweep = read_sweep(config.file)
    if config.runs is not None:
        sweep = replace(sweep, runs=config.runs)
    folder = config.dir or Path("runs") / sweep.name
    study = Study(sweep, folder)
    with Ending():
        study.work([f"--run.wandb={config.wandb}"], jobs=config.jobs or default_jobs())
    best = study.best()
    if best is None:
        raise InputError(
            f"no trial of {folder} has a value of {sweep.metric}: see the trials' logs, {folder}/trial-*.log"
        )
    comparison = compare(read_runs([str(folder)]), sort=sweep.metric)
    print(table(comparison))
    print(verdict(comparison))
    trial, place = best
    print(f"best {study.describe(trial, f'{sweep.metric} {trial.value:.5g}')}")
    print(f"     {place}")
    print(f"look python -m experiments.compare {shlex.quote(str(folder))} --html {shlex.quote(f'{folder}.html')}")


def default_jobs() -> int:
    """The number of trials side by side that gives the highest throughput of small models.

    On a CPU, as many as there are cores: one thread a trial wastes no time in waiting for other threads. A trial of the
    main job takes 1.2 GB. On a GPU, one.
    """
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return 1
    memory = free_memory()
    return max(1, core_count() if memory is None else min(core_count(), memory // _BYTES_PER_TRIAL))


if __name__ == "__main__":
    cli(main)
