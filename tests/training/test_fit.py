"""The training loop, against a loop written out and against evaluations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ae import (
    Augment,
    Autoencoder,
    Batch,
    Classifier,
    Consistency,
    ConvEncoder,
    DeconvDecoder,
    InputError,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    TeacherConfig,
    WeightSchedule,
    evaluate,
    fit,
    load,
)
from ae.training.step import Objective
from ae.weights import load_weights

QUICK = Recipe(epochs=3, batch_size=60, lr=0.05, log_every=2)  # 5 batches an epoch, the last one of 16


def joint(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))})


def open_run(folder: Path, resume: bool = False) -> Run:
    where = RunConfig(resume=folder, wandb="disabled") if resume else RunConfig(dir=folder, wandb="disabled")
    return Run("test", where)


def history(folder: Path, without: tuple[str, ...] = ("train/images_per_second",)) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in without} for row in rows]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [
        (Recipe(lr=0.1, weight_decay=0.01, grad_clip=0.5), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        (Recipe(lr=0.1, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    ],
)
def test_fit_equals_a_loop_written_out(digits: Splits, recipe: Recipe, optimizer: Any) -> None:
    steps = 7
    recipe = Recipe(**{**vars(recipe), "steps": steps, "batch_size": 60, "schedule": "constant"})
    model, reference = joint(), joint()
    fit(model, Joint(), digits, recipe)
    reference_optimizer = optimizer(list(reference.parameters()))
    batches = [batch for epoch in (0, 1) for batch in digits.batches(60, seed=0).epoch(epoch)][:steps]
    for batch in batches:
        output = reference(batch.images)
        loss = 20 * nn.functional.mse_loss(output.reconstruction, batch.images)
        loss = loss + nn.functional.cross_entropy(output.predictions["digit"], batch.labels)
        reference_optimizer.zero_grad()
        loss.backward()
        if recipe.grad_clip:
            nn.utils.clip_grad_norm_(reference.parameters(), recipe.grad_clip)
        reference_optimizer.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_fit_overfits_one_batch(digits: Splits) -> None:
    few = Splits(digits.train.select(slice(32)))
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(), DeconvDecoder(), heads={"digit": Classifier((64, 7, 7))})
    fit(model, Joint(), few, Recipe(epochs=200, batch_size=32, optimizer="adamw", lr=0.02))
    metrics = evaluate(model, few.train)
    assert metrics["accuracy"] == 1
    assert metrics["cross_entropy"] < 1e-3
    assert metrics["mse"] < 0.003


def test_fit_is_reproducible_for_a_seed(digits: Splits) -> None:
    first, repeated, reseeded = joint(), joint(), joint()
    fit(first, Joint(), digits, QUICK)
    torch.rand(10)
    fit(repeated, Joint(), digits, QUICK)
    fit(reseeded, Joint(), digits, Recipe(**{**vars(QUICK), "seed": 1}))
    assert same_weights(first, repeated)
    assert not same_weights(first, reseeded)


@pytest.mark.parametrize("extra_draws", ["model", "noise"])
def test_fit_random_streams_are_independent(digits: Splits, extra_draws: str) -> None:
    """Extra draws change neither the order and augmentation of the images nor the noise of a step."""
    drawn: dict[str, list[torch.Tensor]] = {"none": [], extra_draws: []}
    data = Splits(digits.train, augment=Augment(shift=1))
    for name, tensors in drawn.items():

        def recording(
            model: Autoencoder, batch: Batch, step: int, tensors: list[torch.Tensor] = tensors, name: str = name
        ) -> Loss:
            tensors += [batch.images, torch.rand(3)]
            if name == "noise":
                torch.rand(100)
            return Joint()(model, batch, step)

        model = joint()
        if name == "model":
            torch.rand(100)
        fit(model, recording, data, QUICK)
    assert len(drawn[extra_draws]) == 30
    assert all(torch.equal(a, b) for a, b in zip(*drawn.values(), strict=True))


def test_fit_deterministic_enables_deterministic_algorithms(digits: Splits) -> None:
    def checking(model: Autoencoder, batch: Batch, step: int) -> Loss:
        assert torch.are_deterministic_algorithms_enabled()
        return Joint()(model, batch, step)

    plain, deterministic = joint(), joint()
    fit(plain, Joint(), digits, QUICK)
    fit(deterministic, checking, digits, Recipe(**{**vars(QUICK), "deterministic": True}))
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_weights(plain, deterministic)


def test_fit_logs_every_value_on_its_step(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        results = fit(joint(), Joint(), digits, QUICK, run)
    rows = history(tmp_path / "run", without=())
    assert [row["step"] for row in rows] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    validation = [row for row in rows if "val/loss" in row]
    assert [(row["step"], row["epoch"]) for row in validation] == [(5, 1), (10, 2), (15, 3)]
    terms = {"loss", "mse", "cross_entropy", "accuracy"}
    extra = {"learning_rate", "gradient_norm", "weight_norm", "images_per_second"}
    assert {key.removeprefix("train/") for key in rows[0]} == terms | extra | {"step", "epoch"}
    assert validation[-1]["val/accuracy"] == results["val/accuracy"]
    assert rows[0]["train/learning_rate"] == QUICK.learning_rate(1, 15)


def test_fit_logs_means_over_the_images_since_the_last_row(digits: Splits, tmp_path: Path) -> None:
    """A learning rate of almost 0 keeps the weights, so that each mean can be computed afterwards."""
    model = joint()
    labels = digits.train.labels.clone()
    labels[::3] = -1
    data = Splits(digits.train.relabelled(labels))
    recipe = Recipe(epochs=1, batch_size=60, lr=1e-12, schedule="constant", log_every=100)
    with open_run(tmp_path / "run") as run:
        fit(model, Joint(), data, recipe, run)
    (row,) = history(tmp_path / "run")
    expected = evaluate(model, data.train)
    for name in ("mse", "cross_entropy", "accuracy"):
        assert row[f"train/{name}"] == pytest.approx(expected[name], rel=1e-4)


def test_fit_validation_loss_is_independent_of_weight_schedules(digits: Splits) -> None:
    """Constant weights have the same validation loss at every step of the schedule."""
    objective = Joint(weight_schedule=WeightSchedule(classification=(5.0, 4)))
    recipe = Recipe(steps=4, batch_size=64, lr=1e-12, schedule="constant", evaluate_every=1)
    with open_run(Path("ramp")) as run:
        fit(joint(), objective, digits, recipe, run)
        rows = [row["val/loss"] for row in run.history()]
    assert rows == pytest.approx([rows[-1]] * 4, rel=1e-4)


def test_fit_saves_the_best_weights(digits: Splits, tmp_path: Path) -> None:
    """The loss is maximised after the first validation, so that best and last weights differ."""

    def backwards(model: Autoencoder, batch: Batch, step: int) -> Loss:
        loss = Joint()(model, batch, step)
        return Loss(-loss.total if model.training and step >= 5 else loss.total, loss.terms)

    model = joint()
    with open_run(tmp_path / "run") as run:
        fit(model, backwards, digits, QUICK, run)
    losses = [row["val/loss"] for row in history(tmp_path / "run") if "val/loss" in row]
    assert losses[0] == min(losses) < losses[-1]
    best, last = joint(), joint()
    load_weights(tmp_path / "run/best.safetensors", best)
    load_weights(tmp_path / "run/model.safetensors", last)
    assert digits.validation is not None
    assert evaluate(best, digits.validation, Joint())["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert same_weights(last, model)


def test_fit_evaluates_every_interval_and_at_the_end(digits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(**{**vars(QUICK), "steps": 8, "evaluate_every": 3})
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, recipe, run)
    assert [row["step"] for row in history(tmp_path / "run") if "val/loss" in row] == [3, 6, 8]


def test_fit_trains_and_saves_parameters_of_an_objective(digits: Splits, tmp_path: Path) -> None:
    class Learned(nn.Module):
        """`Joint` with a learned temperature."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
            loss = Joint()(model, batch, step)
            return Loss(self.scale.exp() * loss.total - self.scale, loss.terms)

    objective = Learned()
    with open_run(tmp_path / "run") as run:
        fit(joint(), objective, digits, QUICK, run)
    assert objective.scale.item() != 1
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert torch.equal(state["trained"]["objective.scale"], objective.scale)


def test_fit_leaves_frozen_parameters_unchanged(digits: Splits) -> None:
    model, before = joint(), joint()
    model.encoder.requires_grad_(False)
    fit(model, Joint(), digits, QUICK)
    assert same_weights(model.encoder, before.encoder)
    assert model.decoder is not None
    assert before.decoder is not None
    assert not same_weights(model.decoder, before.decoder)


def test_fit_bf16_is_close_to_fp32_and_keeps_fp32_weights(digits: Splits) -> None:
    exact, rough = joint(), joint()
    fit(exact, Joint(), digits, QUICK)
    fit(rough, Joint(), digits, Recipe(**{**vars(QUICK), "precision": "bf16"}))
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert not same_weights(exact, rough)
    a, b = evaluate(exact, digits.train)["mse"], evaluate(rough, digits.train)["mse"]
    assert a == pytest.approx(b, rel=0.05)


@pytest.mark.slow
def test_fit_compiled_equals_eager(digits: Splits) -> None:
    eager, compiled = joint(), joint()
    fit(eager, Joint(), digits, QUICK)
    fit(compiled, Joint(), digits, Recipe(**{**vars(QUICK), "compile": True}))
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fit_refuses_an_unknown_device(digits: Splits) -> None:
    with pytest.raises(InputError, match="no device nonsense"):
        fit(joint(), Joint(), digits, Recipe(device="nonsense"))


def test_fit_refuses_a_batch_larger_than_the_data(digits: Splits) -> None:
    with pytest.raises(
        InputError, match=r"Recipe\.batch_size must be at most 256, the number of training images, got 257"
    ):
        fit(joint(), Joint(), digits, Recipe(batch_size=257))


def test_objective_is_any_callable() -> None:
    objective: Objective = Joint()
    assert callable(objective)


CONSTANT = Recipe(batch_size=12, lr=0.05, schedule="constant")


def test_fit_ema_equals_the_average_of_the_weights_after_each_step(few: Splits) -> None:
    decay, expected = 0.6, None
    for steps in (1, 2, 3, 4):
        model = joint()
        fit(model, Joint(), few, replace(CONSTANT, steps=steps))
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        weight = 1 - min(decay, (steps - 1) / steps)
        expected = weights if expected is None else [a.lerp(b, weight) for a, b in zip(expected, weights, strict=True)]
    averaged = joint()
    results = fit(averaged, Joint(), few, replace(CONSTANT, steps=4, ema=decay))
    for actual, reference in zip(averaged.parameters(), expected or [], strict=True):
        torch.testing.assert_close(actual.detach(), reference)
    assert few.validation is not None
    assert results["val/mse"] == pytest.approx(evaluate(averaged, few.validation)["mse"], rel=1e-6)


def test_fit_resumes_ema(few: Splits, tmp_path: Path) -> None:
    recipe = replace(CONSTANT, steps=6, ema=0.9)
    whole, parts = joint(), joint()
    fit(whole, Joint(), few, recipe)
    with open_run(tmp_path / "run") as run:
        fit(parts, Joint(), few, replace(recipe, steps=3), run)
    parts = joint(seed=1)
    with open_run(tmp_path / "run", resume=True) as run:
        fit(parts, Joint(), few, recipe, run)
    assert same_weights(whole, parts)
    assert same_weights(load(tmp_path / "run"), whole)


def test_fit_refuses_an_objective_that_reads_an_average_without_ema(few: Splits) -> None:
    model = joint()
    with pytest.raises(InputError, match=r"Consistency reads an average of the weights: set Recipe\.ema"):
        fit(model, Consistency(model, 10), few, replace(CONSTANT, steps=1))


def test_fit_averages_into_the_objectives_copy(few: Splits, tmp_path: Path) -> None:
    """The average of an objective is that of the loop: it is no second copy in the state, and equals a plain run's."""
    plain, read = joint(), joint()
    objective = Consistency(read, 10, Joint(), TeacherConfig(weight=0.0, weak=Augment()))
    recipe = replace(CONSTANT, steps=4, ema=0.6)
    fit(plain, Joint(), few, recipe)
    with open_run(tmp_path / "run") as run:
        fit(read, objective, few, recipe, run)
    assert same_weights(plain, read)
    assert same_weights(plain, objective.averaged)
    assert not any(name.startswith("averaged") for name in torch.load(tmp_path / "run/state.pt")["trained"])
