"""Contenders: the textbook loop, `fit`, a bare training step, and products of matrices as the machine's rate."""

import gzip
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from ae import Autoencoder, Data, Joint, Recipe, Run, RunConfig, Splits, fit, unchecked_range
from ae.data.sources import MNIST
from ae.training.step import Step
from ae.utils.memory import keep_freed_memory
from experiments import joint
from experiments.benchmark.turns import Pace

RECIPE = Recipe(batch_size=64, lr=0.05, momentum=0.9, schedule="constant")
JOINT = Joint(reconstruction=20.0, classification=1.0)
RECONSTRUCTION = Joint(reconstruction=20.0, classification=0.0)


class Plain(nn.Module):
    """The same networks as usually written: conv, ReLU, pool, in a single module."""

    def __init__(self, classify: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 3, stride=2, padding=1, output_padding=1),
            nn.Sigmoid(),
        )
        layers = nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)
        self.head = nn.Sequential(*layers) if classify else None


def textbook(folder: Path, device: str, pace: Pace, steps: int) -> None:
    """Train with torchvision's MNIST, normalised per image, a DataLoader, SGD, and `loss.item()` in every step."""
    model = Plain(classify=True)
    pace(model.encoder)
    for _ in zip(range(steps), textbook_steps(model, folder, device), strict=False):
        pass


def textbook_steps(model: Plain, folder: Path, device: str) -> Iterator[float]:
    """Train without end; yield the loss of each step."""
    assert model.head is not None
    model.to(device)
    loader = DataLoader(torchvision_mnist(folder), batch_size=RECIPE.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum)
    while True:
        for batch in loader:
            images, labels = (tensor.to(device) for tensor in batch)
            features = model.encoder(images)
            target = images * 0.5 + 0.5
            loss = 20 * F.mse_loss(model.decoder(features), target) + F.cross_entropy(model.head(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def torchvision_mnist(folder: Path) -> Dataset[Any]:
    """Open the training digits by torchvision."""
    from torchvision import datasets, transforms

    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    return datasets.MNIST(folder, train=True, transform=normalise)


def unpack_mnist(folder: Path) -> None:
    """Unpack the package's archives of MNIST to torchvision's layout."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in MNIST.glob("*.gz"):
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))


def ours(objective: Joint, tracked: bool, options: Mapping[str, Any], pace: Pace, steps: int) -> None:
    """Train by `fit` with options of the recipe; with `tracked`, in a run that logs and saves, with W&B offline."""
    data = Data("mnist", validation=0).load()
    model = build(data, objective)
    pace(model.encoder)
    recipe = replace(RECIPE, steps=steps, **options)
    if not tracked:
        fit(model, objective, data, recipe)
        return
    with tempfile.TemporaryDirectory() as folder:
        where = RunConfig(dir=Path(folder, "run"), wandb="offline")
        with Run("benchmark", where, joint.Config(objective=objective, recipe=recipe)) as run:
            fit(model, objective, data, recipe, run)


def build(data: Splits, objective: Joint) -> Autoencoder:
    """Build the main job's model, without a head that the objective does not train."""
    model = joint.build(joint.Model(), data)
    return model if objective.classification else Autoencoder(model.encoder, model.decoder)


def bare(device: str, pace: Pace, steps: int) -> None:
    """Train the same model on a fixed batch: forward, backward and the optimiser's step only."""
    keep_freed_memory()  # as `fit` does
    step, train_step = bare_step(JOINT, device=device)
    pace(step.model.encoder)
    with unchecked_range():
        for _ in range(steps):
            train_step()


def bare_step(
    objective: Joint, batch_size: int = RECIPE.batch_size, device: str = "cpu"
) -> tuple[Step, Callable[[], None]]:
    """Return the module, and a function that trains it for a step on a fixed batch."""
    data = Data("mnist").load()
    step = Step(build(data, objective), objective).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = replace(RECIPE, batch_size=batch_size).make_optimizer(list(step.parameters()))
    batch = data.train.select(slice(batch_size)).to(torch.device(device)).batch(slice(None))

    def train_step() -> None:
        loss = step(batch, 0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

    return step, train_step


SIDE = 1024  # of the square matrices whose product measures the machine's rate


def matrices(device: str, pace: Pace, steps: int) -> None:
    """Multiply square matrices, a product per step."""
    product = nn.Linear(SIDE, SIDE, bias=False, device=device)
    pace(product)
    matrix = torch.randn(SIDE, SIDE, device=device)
    with torch.no_grad():
        for _ in range(steps):
            product(matrix)


def multiply_adds() -> float:
    """Return the multiply-adds of the bare step, divided by those of one matrix product."""
    _, train_step = bare_step(JOINT)
    with unchecked_range(), FlopCounterMode(display=False) as counter:
        train_step()
    return counter.get_total_flops() / (2 * SIDE**3)
