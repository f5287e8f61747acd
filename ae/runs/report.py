"""The report of a run: test metrics, summary, pictures and tables."""

import math
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ae.data import ImageSet, Splits
from ae.evaluation.collapse import collapse_warnings
from ae.evaluation.evaluate import per_image_metrics
from ae.evaluation.inference import evaluating
from ae.evaluation.metrics import HEAD, METRICS, REPORT, is_of_head, with_prefix
from ae.evaluation.tables import evaluation_media
from ae.models.autoencoder import Autoencoder
from ae.models.wrappers import unwrapped
from ae.runs.run import Run
from ae.tracking.media import Media
from ae.utils.console import say
from ae.utils.distributed import is_main, runs_for_main
from ae.utils.validation import checked_arguments

if TYPE_CHECKING:
    from PIL.Image import Image


@checked_arguments
def report(
    model: nn.Module,
    data: Splits,
    results: dict[str, float],
    run: Run,
    pictures: "Mapping[str, Image] | None" = None,
    measure: Callable[[ImageSet], Mapping[str, Any]] | None = None,
) -> None:
    """Test the model, write the summary with `results` of `fit`, pictures and tables, and print a short table.

    `pictures` of the experiment, by name, are saved beside those of every test. `measure(test images)` returns metrics
    of the experiment; these are the only test metrics of a model that is no `Autoencoder`. The test set is read once.
    """
    model = unwrapped(model)
    summary: dict[str, Any] = {
        **results,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("ae", "torch", "wandb")}},
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }
    media, warnings = Media(), list[str]()
    if isinstance(model, Autoencoder):
        summary |= code_size(model, data.train)
    if data.test is not None:
        images = data.test()
        if isinstance(model, Autoencoder):
            per_image = per_image_metrics(model, images)
            summary |= with_prefix("test", per_image.means())
            if runs_for_main(model):
                media = evaluation_media(model, images, per_image)
                warnings = collapse_warnings(model, images)
        if measure is not None and runs_for_main(model):
            summary |= with_prefix("test", dict(measure(images)))
    media.pictures.update(pictures or {})
    run.summarise(summary, media)
    if not is_main():
        return
    say(table(summary))
    for warning in warnings:
        say(warning, error=True)
    say(f"run  {run.folder}")
    for name in (*list(pictures or {})[:1], "reconstructions"):
        if name in media.pictures:
            say(f"look {run.folder / name}.png")


def code_size(model: Autoencoder, images: ImageSet) -> dict[str, int | float]:
    """Size of the code of one image: `code_size` numbers; of a quantizer, `code_size` indices of `code_bits` bits."""
    device = next(model.parameters()).device
    with evaluating(model):
        code = model.encode(images.select(slice(1)).to(device).batch(slice(None)).images)
    if code.indices is None:
        return {"code_size": code.mean[0].numel()}
    indices, size = code.indices[0].numel(), int(model.bottleneck.codebook_size)  # type: ignore[arg-type]
    return {"code_size": indices, "code_bits": indices * math.log2(size)}


def table(summary: dict[str, Any]) -> str:
    """Format the main numbers of a summary, a line each, as the registry of metrics says."""
    of_heads = [f"test/{name}" for name in HEAD if f"test/{name}" in summary and f"test/{name}" not in REPORT]
    of_heads += [key for key in summary if key.startswith("test/") and is_of_head(key)]
    names = {key: key.removeprefix("test/") for key in REPORT} | {key: key.split("/")[-1] for key in of_heads}
    keys = (*of_heads, *REPORT)
    rows = [(key, METRICS[names[key]].text(summary[key])) for key in keys if key in summary]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:{width}}  {text}" for key, text in rows)


def _commit() -> str | None:
    """Return the commit of the working directory's repository, marked as dirty if files differ; None without git."""
    try:
        description = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return description.stdout.strip()
