"""Resuming a training, and training that diverges."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ae import (
    Augment,
    Autoencoder,
    Batch,
    ConvEncoder,
    DeconvDecoder,
    DivergedError,
    InputError,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
)
from tests.helpers.small import SHORT, autoencoder, changed_tensors, copied_state
from tests.helpers.tiers import slow
from tests.training.test_fit import QUICK, history, joint, open_run


class Interrupted:
    """An objective with noise that raises KeyboardInterrupt at step `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        if step == self.at and model.training:
            raise KeyboardInterrupt
        noisy = (batch.images + 0.3 * torch.randn_like(batch.images)).clamp(0, 1)
        return Joint()(model, Batch(noisy, batch.labels), step)


@pytest.mark.parametrize("at", [slow(0), slow(1), slow(5), 9, slow(10), slow(14)])
def test_fit_resumed_equals_an_uninterrupted_run(digits: Splits, tmp_path: Path, at: int) -> None:
    data = Splits(digits.train, digits.validation, augment=Augment(shift=1))
    with open_run(tmp_path / "whole") as run:
        expected = fit(joint(), Interrupted(), data, QUICK, run)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "resumed") as run:
        fit(joint(), Interrupted(at), data, QUICK, run)
    with open_run(tmp_path / "resumed", resume=True) as run:
        results = fit(joint(seed=5), Interrupted(), data, QUICK, run)
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    assert history(tmp_path / "whole") == history(tmp_path / "resumed")
    times = {"seconds", "images_per_second"}
    assert {k: v for k, v in results.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}


def test_fit_resumed_after_the_end_changes_nothing(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        expected = fit(joint(), Joint(), digits, QUICK, run)
    weights = (tmp_path / "run/model.safetensors").read_bytes()
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    state["position"]["seconds"] += 1000
    torch.save(state, tmp_path / "run/state.pt")
    with open_run(tmp_path / "run", resume=True) as run:
        results = fit(joint(seed=5), Joint(), digits, QUICK, run)
    assert (tmp_path / "run/model.safetensors").read_bytes() == weights
    assert results["val/mse"] == expected["val/mse"]
    assert results["seconds"] > 1000  # including the time before the interruption


@pytest.mark.parametrize(
    ("model", "recipe", "complaint"),
    [
        (lambda: Autoencoder(ConvEncoder(1, (4, 9)), DeconvDecoder(1, (9, 4))), QUICK, "size mismatch"),
        (joint, Recipe(**{**vars(QUICK), "optimizer": "adamw"}), "trained with another optimiser than AdamW"),
    ],
)
def test_restore_refuses_another_model_or_optimizer(
    digits: Splits, tmp_path: Path, model: Any, recipe: Recipe, complaint: str
) -> None:
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, Recipe(**{**vars(QUICK), "steps": 2}), run)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.*")}
    message = rf"the state of .*run does not fit this model and recipe: .*{complaint}"
    with pytest.raises(InputError, match=message) as error, open_run(tmp_path / "run", resume=True) as run:
        fit(model(), Joint(), digits, recipe, run)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.*")} == before


def test_restore_refuses_fewer_steps_than_were_trained(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    message = "has been trained for 15 steps, more than the 2 asked for"
    with pytest.raises(InputError, match=message), open_run(tmp_path / "run", resume=True) as run:
        fit(joint(), Joint(), digits, Recipe(**{**vars(QUICK), "steps": 2}), run)


def test_fit_with_factories_resumes_and_records_their_names(few: Splits, tmp_path: Path) -> None:
    def halved(step: int, steps: int) -> float:
        return 0.5**step

    recipe = replace(SHORT, steps=3, optimizer=torch.optim.RMSprop, schedule=halved)
    whole, first, second = autoencoder(), autoencoder(), autoencoder()
    fit(whole, Joint(), few, recipe)

    class Stopped(Joint):
        def __call__(self, model: Autoencoder, batch: Batch, step: int, weights: Any = None) -> Loss:
            if step == 2 and model.training:
                raise KeyboardInterrupt
            return super().__call__(model, batch, step, weights)

    with (
        pytest.raises(KeyboardInterrupt),
        Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"recipe": recipe}) as run,
    ):
        fit(first, Stopped(), few, recipe, run)
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"), {"recipe": recipe}) as run:
        fit(second, Joint(), few, recipe, run)
    assert changed_tensors(copied_state(whole), second) == []
    recorded = json.loads((tmp_path / "run/config.json").read_text())["config"]["recipe"]
    assert recorded["optimizer"] == "torch.optim.rmsprop.RMSprop"
    assert recorded["schedule"].endswith("halved")


class Breaks:
    """An objective whose term, total or gradient becomes NaN or infinite at a step."""

    def __init__(self, what: str, at: int, value: float) -> None:
        self.what, self.at, self.value = what, at, value

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        loss = Joint()(model, batch, step)
        if step != self.at:
            return loss
        if self.what == "mse":
            loss.terms["mse"] = loss.terms["mse"] * self.value
        if self.what in ("mse", "loss"):
            loss.total = loss.total * self.value
        if self.what == "gradient_norm":  # sqrt has an infinite slope at 0
            loss.total = loss.total + next(model.parameters()).sub(next(model.parameters()).detach()).sqrt().sum()
        return loss


@pytest.mark.parametrize("what", [slow("mse"), "loss", slow("gradient_norm")])
@pytest.mark.parametrize("value", [math.nan, slow(math.inf)])
def test_fit_stops_at_a_non_finite_value_and_keeps_the_last_good_weights(
    digits: Splits, tmp_path: Path, what: str, value: float
) -> None:
    good = joint()
    with open_run(tmp_path / "good") as run:
        fit(good, Joint(), digits, Recipe(**{**vars(QUICK), "steps": 15}), run)
    lr = QUICK.learning_rate(11, 15)
    message = (
        rf"{what} became NaN or infinite at step 11, learning rate {lr:.3g}; the last good weights are in .*state.pt"
    )
    with pytest.raises(DivergedError, match=message), open_run(tmp_path / "bad") as run:
        fit(joint(), Breaks(what, 11, value), digits, QUICK, run)
    state = torch.load(tmp_path / "bad/state.pt", weights_only=True)
    assert state["position"]["step"] == 10
    assert all(tensor.isfinite().all() for tensor in state["trained"].values())
    assert all(math.isfinite(value) for row in history(tmp_path / "bad") for value in row.values())


def test_fit_does_not_save_weights_that_overflow(digits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(steps=1, batch_size=60, lr=1e38, schedule="constant", momentum=0.0)

    def steep(model: Autoencoder, batch: Batch, step: int) -> Loss:
        return Loss(100 * sum((p.sum() for p in model.parameters()), torch.zeros(())), {})

    with (
        pytest.raises(DivergedError, match=r"a weight became NaN or infinite at step 0"),
        open_run(tmp_path / "r") as run,
    ):
        fit(joint(), steep, digits, recipe, run)
    assert torch.load(tmp_path / "r/state.pt", weights_only=True)["position"]["step"] == 0


def test_resume_takes_optimizer_buffers_in_another_memory_order(digits: Splits, tmp_path: Path) -> None:
    """Of contiguous buffers, a fused kernel would read every value at the place of another in channels-last weights."""
    recipe = replace(QUICK, optimizer="adam", momentum=0.9, lr=0.001, schedule="constant")
    for name in ("whole", "resumed"):
        with open_run(tmp_path / name) as run:
            fit(joint(), Joint(), digits, replace(recipe, epochs=1), run)
    path = tmp_path / "resumed" / "state.pt"
    state = torch.load(path, weights_only=True)
    buffers = [buffer for values in state["optimizers"]["optimizer"]["state"].values() for buffer in values.values()]
    assert any(not buffer.is_contiguous() for buffer in buffers)
    for values in state["optimizers"]["optimizer"]["state"].values():
        values.update({name: buffer.contiguous() for name, buffer in values.items()})
    torch.save(state, path)
    for name in ("whole", "resumed"):
        with open_run(tmp_path / name, resume=True) as run:
            fit(joint(), Joint(), digits, recipe, run)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor), name


@pytest.mark.parametrize("value", [0, -1, 1.5, "9", True])
def test_resume_refuses_an_impossible_micro_batch_in_the_state(value: Any, digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, replace(QUICK, steps=2, schedule="constant"), run)
    for path in (tmp_path / "run").glob("state*.pt"):
        state = torch.load(path, weights_only=True)
        state["position"]["micro_batch"] = value
        torch.save(state, path)
    message = "micro_batch must be a positive whole number"
    with pytest.raises(InputError, match=message), open_run(tmp_path / "run", resume=True) as run:
        fit(joint(), Joint(), digits, replace(QUICK, steps=3, schedule="constant"), run)


def test_optimizer_of_a_factory_is_made_once(digits: Splits) -> None:
    made: list[int] = []

    def factory(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made.append(len(parameters))
        return torch.optim.SGD(parameters)

    fit(joint(), Joint(), digits, replace(QUICK, steps=1, optimizer=factory, momentum=0.9, lr=0.001))
    assert len(made) == 1
