"""Search over an experiment's flags, with no server.   python -m experiments.sweep experiments/sweeps/FILE.yaml

The file is one for `wandb sweep`. Start it in several terminals, or on machines that share the folder, to work on one
study together; start it again after a kill, and it goes on with the trials that were running.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from ae.cli import Positional, cli
from ae.compare import compare, read_runs, table, verdict
from ae.sweeps import Study, read_sweep
from ae.tracking.connection import Mode
from ae.utils.errors import InputError
from ae.utils.signals import Ending
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class Config(Settings):
    """What to search, and where to keep it. Needs the extra `sweep`."""

    file: Positional[Path]  # the sweep's file
    dir: Path | None = None  # the study's folder (default: runs/NAME, by the file's name)
    runs: Positive[int] | None = None  # trials in all (default: the file's run_cap; of a grid, its number of points)
    wandb: Mode = "auto"  # of each trial; they are a group in W&B


def main(config: Config) -> None:
    """Work on the study until no trial is left, then compare them, and name the best."""
    sweep = read_sweep(config.file)
    if config.runs is not None:
        sweep = replace(sweep, runs=config.runs)
    folder = config.dir or Path("runs") / sweep.name
    study = Study(sweep, folder)
    with Ending():
        study.work([f"--run.wandb={config.wandb}"])
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


if __name__ == "__main__":
    cli(main)
