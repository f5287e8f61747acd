"""Training seconds to a target accuracy and MSE, by the textbook loop and by ours."""

import time
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import torch

from ae import Autoencoder, Classifier, ConvEncoder, Data, DeconvDecoder, Images, Joint, Recipe, evaluate, fit
from experiments import joint
from experiments.benchmark.contenders import Plain, textbook_steps

FAST = Recipe(epochs=1, batch_size=64, optimizer="adamw", lr=0.006, weight_decay=0.05, precision="bf16")
OBJECTIVE = Joint(reconstruction=5.0, classification=1.0)
MODEL = joint.Model(norm=True)


@dataclass(frozen=True)
class Quality:
    """Test metrics of a training; its seconds are without evaluations."""

    seconds: float
    epochs: float
    accuracy: float
    mse: float


def textbook(folder: Path, device: str, accuracy: float, mse: float, most_epochs: int, seed: int = 0) -> Quality:
    """Train by the textbook loop until both targets are reached on the test set, evaluated after each epoch."""
    torch.manual_seed(seed)
    plain = Plain(classify=True)
    losses = textbook_steps(plain, folder, device)
    seconds = 0.0
    for epoch in count(1):
        start = time.perf_counter()
        for _ in islice(losses, -(-60_000 // 64)):
            pass
        seconds += time.perf_counter() - start
        metrics = test(as_autoencoder(plain))
        if epoch == most_epochs or (metrics["accuracy"] >= accuracy and metrics["mse"] <= mse):
            return Quality(seconds, epoch, metrics["accuracy"], metrics["mse"])
    raise AssertionError


def as_autoencoder(plain: Plain) -> Autoencoder:
    """Copy the weights to our modules: the same networks, with ReLU and pool in the other order."""
    model = Autoencoder(ConvEncoder(), DeconvDecoder(), heads={"digit": Classifier((64, 7, 7))})
    model.load_state_dict(dict(zip(model.state_dict(), (*model.encoder.buffers(), *plain.parameters()), strict=True)))
    return model


def ours(seed: int, device: str) -> Quality:
    """Train by `fit` with a recipe chosen on the validation images; the test set is read once, at the end."""
    data = Data("mnist", validation=0).load()
    torch.manual_seed(seed)
    model = joint.build(MODEL, data)
    start = time.perf_counter()
    fit(model, OBJECTIVE, data, replace(FAST, seed=seed, device=device))
    seconds = time.perf_counter() - start
    metrics = test(model)
    return Quality(seconds, FAST.epochs, metrics["accuracy"], metrics["mse"])


def test(model: Autoencoder) -> dict[str, float]:
    """Evaluate on the test set."""
    splits = Data("mnist").load()
    assert splits.test is not None
    images = splits.test()
    assert isinstance(images, Images)
    return evaluate(model, images)
