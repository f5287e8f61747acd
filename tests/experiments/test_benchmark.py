"""Benchmark: contenders share networks, loss and work, and alternate in turns."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ae import Batch, Joint
from ae.data.sources import read_mnist
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import contenders, quality
from experiments.benchmark.turns import Pace, take_turns
from tests.helpers import ROOT


def test_textbook_has_the_same_networks_and_loss() -> None:
    torch.manual_seed(0)
    plain, images, labels = contenders.Plain(classify=True), torch.rand(5, 1, 28, 28), torch.arange(5)
    assert plain.head is not None
    features = plain.encoder((images - 0.5) / 0.5)
    theirs = 20 * F.mse_loss(plain.decoder(features), images) + F.cross_entropy(plain.head(features), labels)
    ours = Joint(reconstruction=20.0, classification=1.0)(quality.as_autoencoder(plain), Batch(images, labels), 0)
    torch.testing.assert_close(ours.total, theirs)


def test_torchvision_mnist_equals_our_data(tmp_path: Path) -> None:
    contenders.unpack_mnist(tmp_path)
    theirs, ours = contenders.torchvision_mnist(tmp_path), read_mnist().train
    for i in (0, 1, 59_999):
        image, label = theirs[i]
        torch.testing.assert_close(image * 0.5 + 0.5, ours.batch(torch.tensor([i])).images[0])
        assert label == ours.labels[i]


def test_multiply_adds_equal_a_manual_count() -> None:
    """Forward, and twice as many backward, except for the gradient of the images."""
    conv1, conv2 = 28 * 28 * 9 * 32, 14 * 14 * 9 * 32 * 64
    deconv1, deconv2 = 7 * 7 * 9 * 64 * 32, 14 * 14 * 9 * 32
    head = 3136 * 128 + 128 * 10
    step = 64 * (3 * (conv1 + conv2 + deconv1 + deconv2 + head) - conv1)
    assert contenders.multiply_adds() == pytest.approx(step / contenders.SIDE**3)


MATRICES = partial(contenders.matrices, "cpu")


def early(pace: Pace, steps: int) -> None:
    module = nn.Identity()
    pace(module)
    for _ in range(steps - 5):
        module(torch.zeros(1))


@pytest.mark.slow
def test_take_turns_measures_every_contender(capfd: pytest.CaptureFixture[str]) -> None:
    seconds = take_turns({"a": MATRICES, "b": MATRICES}, steps=2, rounds=3)
    assert {name: len(turns) for name, turns in seconds.items()} == {"a": 3, "b": 3}
    with pytest.raises(RuntimeError, match="ended before its last turn"):
        take_turns({"early": early}, steps=4, rounds=3)


@pytest.mark.slow
def test_benchmark_writes_all_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for its child processes
    small = partial(benchmark.Config, rounds=2, steps=2, starts=1, sizes=(100, 200), batches=(64,), sides=(28,))
    benchmark.main(small(growth_images=128, evaluations=1, epochs=1, seeds=(0,), to=tmp_path / "benchmark.json"))
    out = capsys.readouterr().out
    parts = ("textbook", "bare", "fraction of the limit", "evaluation", "first step", "10 steps in", "images     100")
    for part in (*parts, "ours", "side, bf16"):
        assert part in out
    assert (tmp_path / "benchmark.json").exists()
