"""Read runs and artifacts from W&B's server."""

import re
import tempfile
from pathlib import Path
from typing import Any

from ae.utils.errors import InputError, one_line

_TIMEOUT = 20  # seconds


def find_runs(path: str) -> list[Any]:
    """List the runs of `entity/project` or `entity/project/group` as objects of `wandb.Api`.

    Raises InputError where there are none.
    """
    import wandb

    entity, _, rest = path.partition("/")
    project, _, group = rest.partition("/")
    if not entity or not project:
        expected = "wandb:entity/project or wandb:entity/project/group"
        raise InputError(f"wandb:{path} names no project: it must be {expected}")
    try:
        api = wandb.Api(timeout=_TIMEOUT)
        runs = list(api.runs(f"{entity}/{project}", filters={"group": group} if group else {}, lazy=False))
    except Exception as error:  # the server's answers can raise any exception in the client
        raise InputError(f"can't read wandb:{path}: {one_line(error)}") from error
    if not runs:
        raise InputError(f"no run in wandb:{path}")
    return runs


def read_rows(run: Any, count: int) -> list[dict[str, Any]]:
    """Read at most `count` rows of a run's history, evenly spaced."""
    try:
        return run.history(samples=count, pandas=False)
    except Exception as error:
        raise InputError(f"can't read the history of wandb:{'/'.join(run.path)}: {one_line(error)}") from error


def read_file(run: Any, name: str) -> bytes:
    """Read a file of a run."""
    try:
        with tempfile.TemporaryDirectory() as folder, run.file(name).download(root=folder, replace=True) as file:
            return Path(file.name).read_bytes()
    except Exception as error:
        raise InputError(f"can't read {name} of wandb:{'/'.join(run.path)}: {one_line(error)}") from error


def download_weights(name: str, folder: Path) -> Path:
    """Download only the file of weights of a model's artifact, `entity/project/artifact:alias`."""
    import wandb

    if not re.fullmatch(r"[^/:]+/[^/:]+/[^/:]+:[^/:]+", name):
        raise InputError(f"wandb:{name} names no artifact: it must be wandb:entity/project/artifact:alias")
    try:
        entry = wandb.Api(timeout=_TIMEOUT).artifact(name, type="model").get_entry("model.safetensors")
        return Path(entry.download(root=str(folder)))
    except Exception as error:
        raise InputError(f"can't load wandb:{name}: {one_line(error)}") from error
