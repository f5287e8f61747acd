"""Fixtures of every test: one thread, a working directory of its own, no W&B account, and two small data sets."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads of tests side by side wait for each other

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
import wandb

from ae.data import Batch, Data, Images, Splits, sources
from ae.utils.seeding import generator
from tests.helpers.wandb_server import WandbServer


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or left in the working directory or the home of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.environ.pop("WANDB_SERVICE", None)  # for good: W&B's process of an earlier test may have ended
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def unhooked() -> Iterator[None]:
    """Without the tests' run-time shape checks, as users run: what the code itself says of bad input is seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def mnist() -> Splits:
    """The real MNIST, 5000 images held out."""
    return Data("mnist").load()


@pytest.fixture(scope="session")
def digits(mnist: Splits) -> Splits:
    """256 real digits to train on, 64 to validate on."""
    held_out = mnist.validation
    assert held_out is not None
    train, validation = mnist.train.select(slice(256)), held_out.select(slice(64))
    return Splits(train, validation, lambda: held_out.select(slice(64, 192)))


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the test set, 300 digits."""
    mnist = sources.mnist()
    monkeypatch.setattr(sources, "mnist", lambda: replace(mnist, test=lambda: mnist.test().select(slice(300))))


@pytest.fixture
def batch(digits: Splits) -> Batch:
    """12 digits, of which every third has a label."""
    some = digits.train.batch(slice(12))
    return Batch(some.images, torch.where(torch.arange(12) % 3 == 0, some.labels, -1))


@pytest.fixture
def noise() -> Images:
    """20 random RGB images of odd sizes, of three classes."""
    pixels = torch.randint(0, 256, (20, 3, 9, 13), dtype=torch.uint8, generator=generator("noise"))
    return Images(pixels, torch.arange(20) % 3, ("a", "b", "c"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that the client is logged in to; the test fails if the client asks for what it does not know."""
    with WandbServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # the client remembers the server that it knew before
        yield server
        wandb.teardown()
    assert not server.unknown
