"""Give W&B's server what it lacks of a run that has ended.   python -m ae.upload --run FOLDER

For a run whose server was in trouble, or that was killed. All that is uploaded is in the run's folder; to upload it
again does no harm.
"""

from dataclasses import dataclass
from pathlib import Path

from ae.cli import cli
from ae.run import Run, RunConfig
from ae.run_folder import read_config


@dataclass(frozen=True)
class Config:
    """Which run."""

    run: Path  # the run's folder


def main(config: Config) -> None:
    """Upload one run, under the project, group, ... that it was begun with."""
    known = read_config(config.run)
    begun = known["config"].get("run", {})
    labels = {name: begun.get(name) for name in ("project", "entity", "group", "job_type", "name", "notes")}
    where = RunConfig(resume=config.run, wandb="online", tags=tuple(begun.get("tags", ())), **labels)
    run = Run(known["experiment"], where, known["config"], may_fall_back=False)
    is_complete = run.upload()
    run.finish(exit_code=0 if is_complete else 1)


if __name__ == "__main__":
    cli(main)
