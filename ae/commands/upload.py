"""Upload the parts of an ended run that W&B's server lacks.   ae upload --run FOLDER

Serves runs that were killed or whose server failed. All data comes from the run's folder; repeated uploads are
harmless.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ae.runs.config import RunConfig
from ae.runs.folder import CONFIG, read_config
from ae.runs.run import Run
from ae.utils.errors import InputError
from ae.utils.files import describe
from ae.utils.validation import Settings


@dataclass(frozen=True)
class Config(Settings):
    """The run to upload."""

    run: Path  # the run's folder


def main(config: Config) -> None:
    """Upload a run to the project, group, ... of its configuration."""
    saved = read_config(config.run)
    options = saved["config"].get("run", {})
    if not isinstance(options, dict):
        raise InputError(f"can't read {config.run / CONFIG}: config.run must be an object, got {describe(options)}")
    labels: dict[str, Any] = {
        name: options.get(name) for name in ("project", "entity", "group", "job_type", "name", "notes")
    }
    run_config = RunConfig(resume=config.run, wandb="online", tags=options.get("tags", ()), **labels)
    run = Run(saved["experiment"], run_config, saved["config"], may_fall_back=False)
    is_complete = run.upload()
    run.finish(exit_code=0 if is_complete else 1)
