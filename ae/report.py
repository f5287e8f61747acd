"""The end of a run: the test set, read once, and what a person sees."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ae.data import Images, Splits
from ae.metrics import evaluate
from ae.model import Autoencoder
from ae.pictures import reconstruction_picture
from ae.run import Run


def report(model: Autoencoder, data: Splits, results: dict[str, float], run: Run) -> None:
    """Test the model; write the summary, with `results` of `fit`, and the picture; print a short table."""
    test = data.test() if data.test else None
    metrics = {} if test is None else {f"test/{name}": value for name, value in evaluate(model, test).items()}
    summary: dict[str, Any] = {
        **metrics,
        **results,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "code_size": code_size(model, data.train),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("ae", "torch", "wandb")}},
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }
    picture = None
    if model.decoder is not None and test is not None:
        picture = reconstruction_picture(model, _of_each_class(test), title=_title(metrics))
    run.summarise(summary, picture)
    print(table(summary))
    print(f"run  {run.folder}")
    if picture:
        print(f"look {run.folder / 'reconstructions.png'}")


@torch.no_grad()
def code_size(model: Autoencoder, images: Images) -> int:
    """How many numbers the code of one image has: what a reconstruction error must be read with."""
    device = next(model.parameters()).device
    return model.encode(images.select(slice(1)).to(device).batch(slice(None)).images).mean[0].numel()


def table(summary: dict[str, Any]) -> str:
    """The numbers that a person asks for first, a line each."""
    shown = {
        "test/accuracy": "{:.2%}",
        "test/cross_entropy": "{:.4f} nats",
        "test/mse": "{:.5f} per pixel",
        "test/psnr": "{:.2f} dB",
        "test/ssim": "{:.4f}",
        "code_size": "{:,} numbers",
        "parameters": "{:,}",
        "seconds": "{:.1f}",
        "images_per_second": "{:,.0f}",
    }
    rows = [(name, form.format(summary[name])) for name, form in shown.items() if name in summary]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _title(metrics: dict[str, float]) -> str:
    forms = {"mse": "mse {:.5f} per pixel", "psnr": "psnr {:.2f} dB", "accuracy": "accuracy {:.2%}"}
    parts = [form.format(metrics[f"test/{name}"]) for name, form in forms.items() if f"test/{name}" in metrics]
    return "test images: " + ",  ".join(parts)


def _of_each_class(images: Images) -> Images:
    """The same images, reordered: the first of each class, then the second of each, and so on."""
    rank = torch.zeros_like(images.labels)
    for label in images.labels.unique():
        members = images.labels == label
        rank[members] = torch.arange(int(members.sum()))
    return images.select((rank * (len(images.classes) + 1) + images.labels).argsort())


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
