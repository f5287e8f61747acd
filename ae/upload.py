"""Give W&B's server what it lacks of a run that has ended.   python -m ae.upload --run FOLDER

For a run whose server was in trouble, or that was killed. All that is uploaded is in the run's folder; to upload it
again does no harm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ae.cli import cli
from ae.runs.folder import CONFIG, read_config
from ae.runs.run import Run, RunConfig
from ae.utils.errors import InputError
from ae.utils.files import describe
from ae.utils.validation import Settings


@dataclass(frozen=True)
class Config(Settings):
    """Which run."""

    run: Path  # the run's folder


def main(config: Config) -> None:
    """Upload one run, under the project, group, ... that it was begun with."""
    known = read_config(config.run)
    begun = known["config"].get("run", {})
    if not isinstance(begun, dict):
        raise InputError(f"can't read {config.run / CONFIG}: config.run must be an object, got {describe(begun)}")
    labels: dict[str, Any] = {
        name: begun.get(name) for name in ("project", "entity", "group", "job_type", "name", "notes")
    }
    where = RunConfig(resume=config.run, wandb="online", tags=begun.get("tags", ()), **labels)
    run = Run(known["experiment"], where, known["config"], may_fall_back=False)
    is_complete = run.upload()
    run.finish(exit_code=0 if is_complete else 1)


if __name__ == "__main__":
    cli(main)
