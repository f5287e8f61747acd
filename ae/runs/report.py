"""The end of a run: the test set, read once, and what a person sees."""

import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ae.data import ImageSet, Splits
from ae.evaluation.metrics import evaluating, examine, with_prefix
from ae.evaluation.tables import gather
from ae.models.autoencoder import Autoencoder
from ae.models.wrappers import unwrapped
from ae.runs.run import Run
from ae.tracking.media import Media
from ae.utils.console import say
from ae.utils.distributed import is_main
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
    """Test the model; write the summary, with `results` of `fit`, and what the tests show; print a short table.

    `pictures` are those of the experiment's own, by name, beside the ones of every test; `measure` gives values of its
    own of the test images, which are read here once. A model that is no `Autoencoder` has these values alone.
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
    media = Media()
    if isinstance(model, Autoencoder):
        summary["code_size"] = code_size(model, data.train)
    if data.test is not None:
        images = data.test()
        if isinstance(model, Autoencoder):
            examined = examine(model, images)
            summary |= with_prefix("test", examined.means())
            if is_main():
                media = gather(model, images, examined)
        if measure is not None and is_main():
            summary |= with_prefix("test", dict(measure(images)))
    media.pictures.update(pictures or {})
    run.summarise(summary, media)
    if not is_main():
        return
    say(table(summary))
    say(f"run  {run.folder}")
    for name in (*list(pictures or {})[:1], "reconstructions"):
        if name in media.pictures:
            say(f"look {run.folder / name}.png")


@torch.no_grad()
def code_size(model: Autoencoder, images: ImageSet) -> int:
    """How many numbers the code of one image has: what a reconstruction error must be read with."""
    device = next(model.parameters()).device
    with evaluating(model):
        return model.encode(images.select(slice(1)).to(device).batch(slice(None)).images).mean[0].numel()


def table(summary: dict[str, Any]) -> str:
    """The numbers that a person asks for first, a line each."""
    shown = {
        "test/accuracy": "{:.2%}",
        "test/cross_entropy": "{:.4f} nats",
        "test/mse": "{:.5f} per pixel",
        "test/restored/mse": "{:.5f} per pixel, of corrupted images",
        "test/corrupted/mse": "{:.5f}, of what the model was given",
        "test/mean_image/mse": "{:.5f}, of the mean image",
        "test/psnr": "{:.2f} dB",
        "test/ssim": "{:.4f}",
        "test/log_likelihood": "{:.2f} nats",
        "test/log_likelihood_error": "{:.2f} nats, a standard error over images",
        "test/frechet/prior": "{:.2f} (Fréchet classifier distance of samples)",
        "test/frechet/mixture": "{:.2f}",
        "test/frechet/samples": "{:.2f}",
        "test/frechet/test_digits": "{:.2f}",
        "test/prior/nats": "{:.2f} an image, of the prior over codes",
        "code_size": "{:,} numbers",
        "parameters": "{:,}",
        "seconds": "{:.1f}",
        "images_per_second": "{:,.0f}",
    }
    rows = [(name, form.format(summary[name])) for name, form in shown.items() if name in summary]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _commit() -> str | None:
    """The commit of the working directory's repository, marked where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
