"""Who trains against whom: the loop that a user would write, ours, its step alone, other trainers, and the machine."""

import gzip
import tempfile
from collections.abc import Callable, Iterator
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
from ae.training.fit import Step
from experiments import joint
from experiments.benchmark.turns import Pace

RECIPE = Recipe(batch_size=64, lr=0.05, momentum=0.9, schedule="constant")
JOINT = Joint(reconstruction=20.0, classification=1.0)
RECONSTRUCTION = Joint(reconstruction=20.0, classification=0.0)


class Plain(nn.Module):
    """The same networks as they are usually written: conv - ReLU - pool, and everything in one module."""

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


def textbook(folder: Path, pace: Pace, steps: int) -> None:
    """torchvision's MNIST, normalised image by image, a DataLoader, SGD, and the loss read at every step."""
    model = Plain(classify=True)
    pace(model.encoder)
    for _ in zip(range(steps), textbook_steps(model, folder), strict=False):
        pass


def textbook_steps(model: Plain, folder: Path) -> Iterator[float]:
    """Train, epoch after epoch; gives each step's loss."""
    assert model.head is not None
    loader = DataLoader(torchvision_mnist(folder), batch_size=RECIPE.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum)
    while True:
        for images, labels in loader:
            features = model.encoder(images)
            target = images * 0.5 + 0.5
            loss = 20 * F.mse_loss(model.decoder(features), target) + F.cross_entropy(model.head(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def torchvision_mnist(folder: Path) -> Dataset[Any]:
    """The training digits as torchvision reads them."""
    from torchvision import datasets, transforms

    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    return datasets.MNIST(folder, train=True, transform=normalise)


def unpack_mnist(folder: Path) -> None:
    """The archives that come with the package, where and as torchvision looks for them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in MNIST.glob("*.gz"):
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))


def ours(objective: Joint, tracked: bool, pace: Pace, steps: int) -> None:
    """`fit`; with `tracked`, in a run with all that it logs and saves, W&B too."""
    data = Data("mnist", validation=0).load()
    model = build(data, objective)
    pace(model.encoder)
    recipe = replace(RECIPE, steps=steps)
    if not tracked:
        fit(model, objective, data, recipe)
        return
    with tempfile.TemporaryDirectory() as folder:
        where = RunConfig(dir=Path(folder, "run"), wandb="offline")
        with Run("benchmark", where, joint.Config(objective=objective, recipe=recipe)) as run:
            fit(model, objective, data, recipe, run)


def build(data: Splits, objective: Joint) -> Autoencoder:
    """The main job's model, without the head that an objective does not train."""
    model = joint.build(joint.Model(), data)
    return model if objective.classification else Autoencoder(model.encoder, model.decoder)


def bare(pace: Pace, steps: int) -> None:
    """The same model on a batch that stays: forward, backward and the optimiser's step, and nothing else."""
    step, once = bare_step(JOINT)
    pace(step.model.encoder)
    with unchecked_range():
        for _ in range(steps):
            once()


def bare_step(objective: Joint, batch_size: int = RECIPE.batch_size) -> tuple[Step, Callable[[], None]]:
    """The module that is trained, and what trains it for a step."""
    data = Data("mnist").load()
    step = Step(build(data, objective), objective).to(memory_format=torch.channels_last)
    optimizer = replace(RECIPE, batch_size=batch_size).make_optimizer(list(step.parameters()))
    batch = data.train.batch(slice(batch_size))

    def once() -> None:
        loss = step(batch, 0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

    return step, once


SIDE = 1024  # of the square matrices whose product is this machine's rate


def matrices(pace: Pace, steps: int) -> None:
    """Products of square matrices, one a step."""
    product = nn.Linear(SIDE, SIDE, bias=False)
    pace(product)
    matrix = torch.randn(SIDE, SIDE)
    with torch.no_grad():
        for _ in range(steps):
            product(matrix)


def multiply_adds() -> float:
    """The multiply-adds of the bare step, over those of one of these products."""
    _, once = bare_step(JOINT)
    with unchecked_range(), FlopCounterMode(display=False) as counter:
        once()
    return counter.get_total_flops() / (2 * SIDE**3)
