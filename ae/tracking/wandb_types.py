"""Convert tables and parameters to W&B's data types, and save weights and source code as W&B's artifacts."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from ae.tracking.media import Table, is_picture

if TYPE_CHECKING:
    import wandb

Watch = Literal["gradients", "parameters", "all"]

_CHART = "confusion"  # the table that W&B shows as a chart; of one of several heads, `confusion-HEAD`


def stored_name(name: str) -> str:
    """The name under which W&B stores a picture or table."""
    return f"{name}_table" if _is_chart(name) else name


def _is_chart(name: str) -> bool:
    return name.split("-")[0] == _CHART


def wandb_table(name: str, table: Table) -> Any:
    """Convert a table; the confusion matrix becomes a chart."""
    import wandb

    rows = [[wandb.Image(cell) if is_picture(cell) else cell for cell in row] for row in table.rows]
    converted = wandb.Table(columns=list(table.columns), data=rows)
    if not _is_chart(name):
        return converted
    fields = {column: column for column in table.columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", converted, fields, {"title": "Confusion matrix"})


def histograms(model: nn.Module, watch: Watch) -> dict[str, Any]:
    """Histograms of 64 bins of each parameter, its gradient, or both."""
    import wandb

    tensors = {}
    for name, parameter in model.named_parameters():
        if watch in ("parameters", "all"):
            tensors[f"parameters/{name}"] = parameter.detach()
        if watch in ("gradients", "all") and parameter.grad is not None:
            tensors[f"gradients/{name}"] = parameter.grad
    counts = {key: np.histogram(tensor.float().cpu().numpy(), bins=64) for key, tensor in tensors.items()}
    return {key: wandb.Histogram(np_histogram=counts_and_edges) for key, counts_and_edges in counts.items()}


def log_weights(run: "wandb.Run", path: Path, aliases: Sequence[str], metadata: dict[str, Any]) -> None:
    """Save a file of weights as a version of the artifact `model-ID`."""
    import wandb

    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata=metadata)
    artifact.add_file(str(path), name="model.safetensors", policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=list(aliases))


def log_source(run: "wandb.Run") -> None:
    """Save the package and the program as an artifact; W&B itself stores the commit and its diff."""
    package = Path(__file__).parent.parent
    files = {f"ae/{path.relative_to(package)}": path for path in package.rglob("*.py")}
    program = getattr(sys.modules["__main__"], "__file__", None)
    if program:
        files[f"program/{Path(program).name}"] = Path(program)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            copy_file(path, Path(folder, name))
        run.log_code(folder, name=f"source-{run.project}", include_fn=lambda path: True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, and make the folder of the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
