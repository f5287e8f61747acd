"""Starts of a run: new, resumed, or forked from the weights of another run."""

import time
from pathlib import Path
from typing import Any

from torch import nn

from ae.models.wrappers import with_names_of
from ae.runs.checkpoint import load_state
from ae.runs.folder import STATE, SUMMARY, ConfigFile, read_config, read_history, read_summary
from ae.runs.resume import changes
from ae.runs.storage import Storage, create_folder
from ae.tracking.connection import new_run_id
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.files import exists
from ae.weights import load_weights


def start_new(experiment: str, folder: Path | None, config: dict[str, Any]) -> tuple[Storage, ConfigFile]:
    """Create and lock the folder of a new run, by default `runs/EXPERIMENT-TIME-ID`."""
    config_file = ConfigFile(experiment, new_run_id(), config)
    folder = folder or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{config_file.id}"
    create_folder(folder)
    return Storage(folder), config_file


def start_resumed(
    experiment: str, folder: Path, config: Any, config_json: dict[str, Any]
) -> tuple[Storage, ConfigFile]:
    """Check and lock the folder of a run to resume; nothing but the lock is written.

    Raises InputError if a file is broken, or if experiment or configuration differ where they may not.
    """
    saved = read_config(folder)
    if saved["experiment"] != experiment:
        raise InputError(
            f"{folder} is a run of {saved['experiment']}, which {experiment} can't continue; "
            "start from its weights with --run.fork"
        )
    changed = changes(saved["config"], config, config_json)
    changed.pop("run.resume", None)  # the flag that resumes is no change
    read_history(folder)
    read_summary(folder)
    storage = Storage(folder)
    config_file = ConfigFile(experiment, saved["id"], config_json, saved.get("changes", []), saved.get("data"))
    if changed:
        config_file.changes.append(changed)
        differences = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
        say(f"continued with {differences}", error=True)
    return storage, config_file


def load_resumed_state(folder: Path) -> dict[str, Any] | None:
    """Load the training state of a resumed run; None if its training has not started.

    Raises InputError if the state of a started training is lost: the training would start again.
    """
    state = load_state(folder / STATE)
    if state is not None:
        return state
    history = read_history(folder)
    results = [name for name in (SUMMARY, "model.safetensors", "best.safetensors") if exists(folder / name)]
    if history or results:
        progress = f"its history goes to step {history[-1]['step']}" if history else f"it holds {results[0]}"
        raise InputError(
            f"can't continue {folder}: {STATE} is gone, and {progress}; start from its weights with --run.fork"
        )
    return None


def load_forked_weights(folder: Path, model: nn.Module) -> None:
    """Load the final weights of the run in `folder`, or those of its training state, into `model`."""
    if exists(folder / "model.safetensors"):
        load_weights(folder / "model.safetensors", model)
        return
    state = load_state(folder / STATE)
    if state is None:
        raise InputError(f"can't fork {folder}: it holds no weights yet")
    trained = state.get("trained", {})
    weights = {key.removeprefix("model."): value for key, value in trained.items() if key.startswith("model.")}
    try:
        model.load_state_dict(with_names_of(model, weights))
    except RuntimeError as error:
        raise InputError(f"the weights of {folder} do not fit this model: {one_line(error)}") from error
