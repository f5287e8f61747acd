"""Read W&B's server: runs and artifacts."""

import re
import tempfile
from pathlib import Path
from typing import Any

from ae.utils.errors import InputError, one_line

_TIMEOUT = 20  # seconds


def find_runs(path: str) -> list[Any]:
    """The runs of `entity/project` or `entity/project/group`, as W&B's client has them.

    Raises InputError where the server gives none.
    """
    import wandb

    entity, _, rest = path.partition("/")
    project, _, group = rest.partition("/")
    if not entity or not project:
        expected = "wandb:entity/project or wandb:entity/project/group"
        raise InputError(f"wandb:{path} names no project: it must be {expected}")
    try:
        api = wandb.Api(timeout=_TIMEOUT)
        found = list(api.runs(f"{entity}/{project}", filters={"group": group} if group else {}, lazy=False))
    except Exception as error:  # whatever the server's answers lead the client to
        raise InputError(f"can't read wandb:{path}: {one_line(error)}") from error
    if not found:
        raise InputError(f"no run in wandb:{path}")
    return found


def read_rows(run: Any, count: int) -> list[dict[str, Any]]:
    """At most so many rows of a run's history, evenly spaced."""
    try:
        return run.history(samples=count, pandas=False)
    except Exception as error:
        raise InputError(f"can't read the history of wandb:{'/'.join(run.path)}: {one_line(error)}") from error


def read_file(run: Any, name: str) -> bytes:
    """A file of a run."""
    try:
        with tempfile.TemporaryDirectory() as folder, run.file(name).download(root=folder, replace=True) as file:
            return Path(file.name).read_bytes()
    except Exception as error:
        raise InputError(f"can't read {name} of wandb:{'/'.join(run.path)}: {one_line(error)}") from error


def download_weights(name: str, folder: Path) -> Path:
    """The weights in a model's artifact, `entity/project/artifact:alias`; only this one file of it is written."""
    import wandb

    if not re.fullmatch(r"[^/:]+/[^/:]+/[^/:]+:[^/:]+", name):
        raise InputError(f"wandb:{name} names no artifact: it must be wandb:entity/project/artifact:alias")
    try:
        entry = wandb.Api(timeout=_TIMEOUT).artifact(name, type="model").get_entry("model.safetensors")
        return Path(entry.download(root=str(folder)))
    except Exception as error:
        raise InputError(f"can't load wandb:{name}: {one_line(error)}") from error
