"""The number of images at a time, chosen by the free memory, and its record."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Batch,
    ConvEncoder,
    DeconvDecoder,
    InputError,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
)
from ae.runs.folder import read_config
from ae.training.micro_batch import fitting_micro_batch, free_memory, kept_bytes
from ae.training.step import Step
from tests.helpers.small import autoencoder, changed_tensors, copied_state
from tests.training.test_precision import Config

CPU = torch.device("cpu")
AUTO = Recipe(steps=3, batch_size=32, schedule="constant", lr=0.01, micro_batch="auto")


class Layers(nn.Module):
    """One linear layer and an exponential, whose kept tensors are known: the layer's input and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 1000)
        self.register_buffer("calls", torch.tensor(0))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.flatten(1) * torch.rand_like(x.flatten(1))).exp()


def objective(model: Layers, batch: Batch, step: int) -> Loss:
    return Loss(model(batch.images).sum(), {})


def test_kept_bytes_are_those_of_the_layers_and_change_nothing(digits: Splits) -> None:
    step = Step(Layers(), objective)
    before, random = copied_state(step), torch.random.get_rng_state()
    per_image = 4 * (784 + 1000)
    for count in (1, 2, 16):
        assert kept_bytes(step, digits.train.batch(slice(count))) == per_image * count
    assert not changed_tensors(before, step)
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize(("images", "expected"), [(0, 1), (1, 1), (7, 7), (32, 32), (1000, 32)])
def test_fitting_micro_batch_fills_half_of_what_the_weights_leave(
    images: int, expected: int, digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(Layers(), objective)
    weights = sum(parameter.nbytes for parameter in step.parameters())
    free = 4 * weights + 2 * 4 * (784 + 1000) * images
    monkeypatch.setattr("ae.training.micro_batch.free_memory", lambda _: free)
    assert fitting_micro_batch(step, digits.train.batch(slice(2)), most=32) == expected


def test_fitting_micro_batch_is_the_whole_batch_where_memory_is_not_known(
    digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ae.training.micro_batch.free_memory", lambda _: None)
    assert fitting_micro_batch(Step(Layers(), objective), digits.train.batch(slice(2)), most=32) == 32


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is not known here")
def test_free_memory_of_a_processor_is_what_is_available() -> None:
    free = free_memory(CPU)
    assert free is not None
    assert 2**20 < free < 2**50


def test_fit_auto_equals_the_micro_batch_that_it_chose_and_a_resumed_run_keeps_it(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str, recipe: Recipe, resume: bool = False) -> dict[str, Tensor]:
        folder = {"resume": tmp_path / name} if resume else {"dir": tmp_path / name}
        where = RunConfig(**folder, wandb="disabled")  # type: ignore[arg-type]
        model = autoencoder()
        with Run("test", where, Config(recipe)) as run:
            fit(model, Joint(), digits, recipe, run)
        return model.state_dict()

    kept = kept_bytes(Step(autoencoder(), Joint()), digits.train.batch(slice(2))) // 2
    monkeypatch.setattr("ae.training.micro_batch._COPIES", 0)
    monkeypatch.setattr("ae.training.micro_batch.free_memory", lambda _: 19 * kept)
    chosen = train("auto", AUTO)
    assert read_config(tmp_path / "auto")["config"]["recipe"]["micro_batch"] == 9
    given = train("given", Recipe(**{**vars(AUTO), "micro_batch": 9}))
    assert all(torch.equal(chosen[name], tensor) for name, tensor in given.items())
    monkeypatch.setattr("ae.training.micro_batch.free_memory", lambda _: 10**15)
    longer = train("auto", Recipe(**{**vars(AUTO), "steps": 5}), resume=True)
    expected = train("given", Recipe(**{**vars(AUTO), "steps": 5, "micro_batch": 9}), resume=True)
    assert all(torch.equal(longer[name], tensor) for name, tensor in expected.items())


@pytest.mark.usefixtures("unhooked")
def test_recipe_refuses_a_micro_batch_above_the_batch_or_of_another_word() -> None:
    with pytest.raises(InputError, match=r"Recipe\.micro_batch must be at most Recipe\.batch_size, 16, got 17"):
        Recipe(batch_size=16, micro_batch=17)
    for value in (0, -1, 1.5, "most", True):
        with pytest.raises(InputError, match=r"micro_batch must be"):
            Recipe(micro_batch=value)  # type: ignore[arg-type]


def test_kept_bytes_take_losses_with_noise_and_batch_norm_of_one_image(digits: Splits) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True))
    step = Step(model, Joint(classification=0.0))
    one, two = (kept_bytes(step, digits.train.batch(slice(count))) for count in (1, 2))
    assert one < two < 2.1 * one
