"""Shared fixtures: one thread, a temporary working directory and home, no W&B account, and small data sets."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before the import of torch: threads of parallel tests would wait for each other
HUGGING_FACE = tempfile.TemporaryDirectory(prefix="ae-tests-")
os.environ |= {"HF_HOME": HUGGING_FACE.name, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HUB_DISABLE_XET"] = "1"  # a loopback server has no Xet storage

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
import wandb
from hypothesis import HealthCheck, settings

from ae.data import Batch, Data, Images, Splits, sources
from ae.utils.seeding import generator
from tests.helpers.wandb_server import WandbServer

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("random", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _independent() -> Iterator[None]:
    """Make random numbers and threads of a test independent of the tests that ran before it in the same process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # libraries use it
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # `Recipe.threads` sets those of the process


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate each test from the user's working directory, home and W&B settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.environ.pop("WANDB_SERVICE", None)  # not restored: W&B's process of an earlier test may have ended
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal noise is 0, so that it is the same in parts of a batch as in the whole."""
    torch.overrides.get_overridable_functions()  # a table of PyTorch's own functions, kept by the compiler's first use
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape, **options))
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", torch.zeros)
    monkeypatch.setattr(torch, "randn_like", lambda like, **options: torch.zeros_like(like, **options))


@pytest.fixture
def unhooked() -> Iterator[None]:
    """Disable jaxtyping's run-time checks, as for users, so that the code's own errors are raised."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def mnist() -> Splits:
    """Real MNIST, with 5000 validation images."""
    return Data("mnist").load()


@pytest.fixture(scope="session")
def digits(mnist: Splits) -> Splits:
    """256 training digits, 64 validation digits, 128 test digits."""
    held_out = mnist.validation
    assert held_out is not None
    train, validation = mnist.train.select(slice(256)), held_out.select(slice(64))
    return Splits(train, validation, lambda: held_out.select(slice(64, 192)))


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the test set, 300 digits."""
    mnist = sources.read_mnist()
    monkeypatch.setattr(sources, "read_mnist", lambda: replace(mnist, test=lambda: mnist.test().select(slice(300))))


@pytest.fixture
def batch(digits: Splits) -> Batch:
    """12 digits, of which every third has a label."""
    labelled = digits.train.batch(slice(12))
    return Batch(labelled.images, torch.where(torch.arange(12) % 3 == 0, labelled.labels, -1))


@pytest.fixture
def noise() -> Images:
    """20 random RGB images of odd height and width, in three classes."""
    pixels = torch.randint(0, 256, (20, 3, 9, 13), dtype=torch.uint8, generator=generator("noise"))
    return Images(pixels, torch.arange(20) % 3, ("a", "b", "c"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """W&B server with a logged-in client; the test fails on requests unknown to the server."""
    with WandbServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # the client caches its previous server
        yield server
        wandb.teardown()
    assert not server.unknown
