"""The run in W&B: its options, and its files of weights."""

from functools import partial
from pathlib import Path
from typing import Any

from ae.runs.config import RunConfig
from ae.runs.folder import ConfigFile, read_history
from ae.tracking.connection import effective
from ae.tracking.options import check_environment, check_settings
from ae.tracking.tracker import Tracker
from ae.utils.imports import importing
from ae.weights import read_metadata


def check_tracking(run_config: RunConfig) -> None:
    """Raise InputError if the run is tracked and W&B's environment variables or settings files are invalid."""
    if effective(run_config.wandb) != "disabled":
        check_environment()
        check_settings()


def open_tracker(run_config: RunConfig, folder: Path, config_file: ConfigFile, may_fall_back: bool) -> Tracker | None:
    """Open the run in W&B; None if tracking is disabled."""
    if effective(run_config.wandb) == "disabled":
        return None
    with importing("torch._dynamo"):  # takes a second, and the first optimiser needs it: while W&B's process starts
        return Tracker(
            run_config.wandb,
            folder,
            run_config.patience,
            partial(read_history, folder),
            is_new=run_config.resume is None,
            may_fall_back=may_fall_back,
            defaults={"project": "ae", "job_type": config_file.experiment, "name": folder.resolve().name},
            id=config_file.id,
            config=config_file.config,
            project=run_config.project,
            entity=run_config.entity,
            group=run_config.group,
            job_type=run_config.job_type,
            name=run_config.name,
            tags=run_config.tags or None,
            notes=run_config.notes,
        )


def weight_files(folder: Path, summary: dict[str, Any]) -> list[tuple[list[str], Path, dict[str, Any]]]:
    """Return the aliases, path and metadata of each file of weights, the final weights last.

    W&B takes the last file as the latest version. Equal files are listed once, under both aliases.
    """
    best, final = folder / "best.safetensors", folder / "model.safetensors"
    if best.exists() and final.exists() and best.read_bytes() == final.read_bytes():
        return [(["best", "latest"], final, {"model": read_metadata(final).model, **summary})]
    best_metrics = {key: value for key, value in summary.items() if key.startswith("best/")}
    files = [(["best"], best, best_metrics), (["latest"], final, summary)]
    return [
        (aliases, path, {"model": read_metadata(path).model, **metrics})
        for aliases, path, metrics in files
        if path.exists()
    ]
