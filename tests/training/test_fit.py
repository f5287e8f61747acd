import json
import math
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
    WeightSchedule,
    evaluate,
    fit,
)
from ae.training.fit import Objective
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


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("total", [1, 2, 3, 10, 430, 1000])
def test_one_cycle_is_pytorchs(total: int) -> None:
    recipe = Recipe(schedule="one-cycle", lr=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total, cycle_momentum=False)
    for step in range(total):
        assert recipe.learning_rate(step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            schedule.step()


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [
        (Recipe(lr=0.1, weight_decay=0.01, grad_clip=0.5), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        (Recipe(lr=0.1, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    ],
)
def test_equals_a_loop_written_out(digits: Splits, recipe: Recipe, optimizer: Any) -> None:
    steps = 7
    recipe = Recipe(**{**vars(recipe), "steps": steps, "batch_size": 60, "schedule": "constant"})
    ours, plain = joint(), joint()
    fit(ours, Joint(), digits, recipe)
    step_by_hand = optimizer(list(plain.parameters()))
    batches = [batch for epoch in (0, 1) for batch in digits.batches(60, seed=0).epoch(epoch)][:steps]
    for batch in batches:
        output = plain(batch.images)
        loss = 20 * nn.functional.mse_loss(output.reconstruction, batch.images)
        loss = loss + nn.functional.cross_entropy(output.logits["digit"], batch.labels)
        step_by_hand.zero_grad()
        loss.backward()
        if recipe.grad_clip:
            nn.utils.clip_grad_norm_(plain.parameters(), recipe.grad_clip)
        step_by_hand.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_overfits_one_batch(digits: Splits) -> None:
    few = Splits(digits.train.select(slice(32)))
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(), DeconvDecoder(), heads={"digit": Classifier((64, 7, 7))})
    fit(model, Joint(), few, Recipe(epochs=300, batch_size=32, optimizer="adamw", lr=0.01))
    metrics = evaluate(model, few.train)
    assert metrics["accuracy"] == 1
    assert metrics["cross_entropy"] < 1e-3
    assert metrics["mse"] < 0.003


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(digits: Splits) -> None:
    one, same, other = joint(), joint(), joint()
    fit(one, Joint(), digits, QUICK)
    torch.rand(10)
    fit(same, Joint(), digits, QUICK)
    fit(other, Joint(), digits, Recipe(**{**vars(QUICK), "seed": 1}))
    assert same_weights(one, same)
    assert not same_weights(one, other)


@pytest.mark.parametrize("more", ["model", "noise"])
def test_drawing_more_in_one_place_moves_nothing_in_another(digits: Splits, more: str) -> None:
    """The order of the images and their augmentation, and the noise that each step begins with."""
    seen: dict[str, list[torch.Tensor]] = {"as it is": [], more: []}
    data = Splits(digits.train, augment=Augment(shift=1))
    for name, found in seen.items():

        def look(
            model: Autoencoder, batch: Batch, step: int, found: list[torch.Tensor] = found, name: str = name
        ) -> Loss:
            found += [batch.images, torch.rand(3)]
            if name == "noise":
                torch.rand(100)
            return Joint()(model, batch, step)

        model = joint()
        if name == "model":
            torch.rand(100)
        fit(model, look, data, QUICK)
    assert len(seen[more]) == 30
    assert all(torch.equal(one, other) for one, other in zip(*seen.values(), strict=True))


def test_only_algorithms_that_repeat_themselves_if_asked(digits: Splits) -> None:
    def look(model: Autoencoder, batch: Batch, step: int) -> Loss:
        assert torch.are_deterministic_algorithms_enabled()
        return Joint()(model, batch, step)

    plain, deterministic = joint(), joint()
    fit(plain, Joint(), digits, QUICK)
    fit(deterministic, look, digits, Recipe(**{**vars(QUICK), "deterministic": True}))
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_weights(plain, deterministic)


class Interrupted:
    """An objective with noise in it, that is interrupted before its step number `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        if step == self.at and model.training:
            raise KeyboardInterrupt
        noisy = (batch.images + 0.3 * torch.randn_like(batch.images)).clamp(0, 1)
        return Joint()(model, Batch(noisy, batch.labels), step)


@pytest.mark.parametrize("at", [0, 1, 5, 9, 10, 14])
def test_an_interrupted_run_ends_as_if_it_had_not_been(digits: Splits, tmp_path: Path, at: int) -> None:
    data = Splits(digits.train, digits.validation, augment=Augment(shift=1))
    with open_run(tmp_path / "whole") as run:
        expected = fit(joint(), Interrupted(), data, QUICK, run)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "broken") as run:
        fit(joint(), Interrupted(at), data, QUICK, run)
    with open_run(tmp_path / "broken", resume=True) as run:
        results = fit(joint(seed=5), Interrupted(), data, QUICK, run)
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    assert history(tmp_path / "whole") == history(tmp_path / "broken")
    times = {"seconds", "images_per_second"}
    assert {k: v for k, v in results.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}


def test_a_finished_run_resumed_stays_as_it_is(digits: Splits, tmp_path: Path) -> None:
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
    assert results["seconds"] > 1000  # what was spent before counts


@pytest.mark.parametrize(
    ("model", "recipe", "complaint"),
    [
        (lambda: Autoencoder(ConvEncoder(1, (4, 9)), DeconvDecoder(1, (9, 4))), QUICK, "size mismatch"),
        (joint, Recipe(**{**vars(QUICK), "optimizer": "adamw"}), "trained with another optimiser than AdamW"),
    ],
)
def test_resuming_another_model_or_optimizer_is_refused(
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


def test_resuming_for_fewer_steps_than_were_trained_is_refused(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    message = "has been trained for 15 steps, more than the 2 asked for"
    with pytest.raises(InputError, match=message), open_run(tmp_path / "run", resume=True) as run:
        fit(joint(), Joint(), digits, Recipe(**{**vars(QUICK), "steps": 2}), run)


def test_logs_every_value_on_its_step(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        results = fit(joint(), Joint(), digits, QUICK, run)
    rows = history(tmp_path / "run", without=())
    assert [row["step"] for row in rows] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    validation = [row for row in rows if "val/loss" in row]
    assert [(row["step"], row["epoch"]) for row in validation] == [(5, 1), (10, 2), (15, 3)]
    terms = {"loss", "mse", "cross_entropy", "penalty", "accuracy"}
    extra = {"learning_rate", "gradient_norm", "weight_norm", "images_per_second"}
    assert {key.removeprefix("train/") for key in rows[0]} == terms | extra | {"step", "epoch"}
    assert validation[-1]["val/accuracy"] == results["val/accuracy"]
    assert rows[0]["train/learning_rate"] == QUICK.learning_rate(1, 15)


def test_the_logged_means_are_over_the_images_since_the_last_row(digits: Splits, tmp_path: Path) -> None:
    """At a learning rate of almost 0 the model stands still, so that each mean can be computed afterwards."""
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


def test_validations_compare_over_a_ramp(digits: Splits) -> None:
    """The same weights have the same validation loss, however far the ramp is."""
    objective = Joint(weight_schedule=WeightSchedule(classification=(5.0, 4)))
    recipe = Recipe(steps=4, batch_size=64, lr=1e-12, schedule="constant", evaluate_every=1)
    with open_run(Path("ramp")) as run:
        fit(joint(), objective, digits, recipe, run)
        rows = [row["val/loss"] for row in run.history()]
    assert rows == pytest.approx([rows[-1]] * 4, rel=1e-4)


def test_keeps_the_best_weights(digits: Splits, tmp_path: Path) -> None:
    """Trained ever worse from its first validation on, so that best and last differ."""

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


@pytest.mark.parametrize("what", ["mse", "loss", "gradient_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_where_a_value_is_not_finite_and_keeps_the_last_good_weights(
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


def test_weights_that_overflow_are_not_saved(digits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(steps=1, batch_size=60, lr=1e38, schedule="constant", momentum=0.0)

    def steep(model: Autoencoder, batch: Batch, step: int) -> Loss:
        return Loss(100 * sum((p.sum() for p in model.parameters()), torch.zeros(())), {})

    with (
        pytest.raises(DivergedError, match=r"a weight became NaN or infinite at step 0"),
        open_run(tmp_path / "r") as run,
    ):
        fit(joint(), steep, digits, recipe, run)
    assert torch.load(tmp_path / "r/state.pt", weights_only=True)["position"]["step"] == 0


def test_steps_and_evaluation_interval(digits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(**{**vars(QUICK), "steps": 8, "evaluate_every": 3})
    with open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), digits, recipe, run)
    assert [row["step"] for row in history(tmp_path / "run") if "val/loss" in row] == [3, 6, 8]


def test_an_objectives_own_parameters_are_trained_and_saved(digits: Splits, tmp_path: Path) -> None:
    class Learned(nn.Module):
        """Joint with a learned temperature."""

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


def test_frozen_parameters_stay_as_they_are(digits: Splits) -> None:
    model, before = joint(), joint()
    model.encoder.requires_grad_(False)
    fit(model, Joint(), digits, QUICK)
    assert same_weights(model.encoder, before.encoder)
    assert model.decoder is not None
    assert before.decoder is not None
    assert not same_weights(model.decoder, before.decoder)


def test_bf16_trains_nearly_as_fp32_and_keeps_fp32_weights(digits: Splits) -> None:
    exact, rough = joint(), joint()
    fit(exact, Joint(), digits, QUICK)
    fit(rough, Joint(), digits, Recipe(**{**vars(QUICK), "precision": "bf16"}))
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert not same_weights(exact, rough)
    a, b = evaluate(exact, digits.train)["mse"], evaluate(rough, digits.train)["mse"]
    assert a == pytest.approx(b, rel=0.05)


@pytest.mark.slow
def test_compiled_trains_as_eager(digits: Splits) -> None:
    eager, compiled = joint(), joint()
    fit(eager, Joint(), digits, QUICK)
    fit(compiled, Joint(), digits, Recipe(**{**vars(QUICK), "compile": True}))
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"batch_size": -1}, "batch_size must be positive, got -1"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"lr": math.nan}, "Recipe.lr must be finite, got nan"),
        ({"log_every": 0}, "log_every must be positive"),
        ({"grad_clip": 0.0}, "grad_clip must be positive"),
        ({"evaluate_every": 0}, "evaluate_every must be positive"),
        ({"momentum": 1.0}, "momentum must be from 0 to less than 1"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a Recipe.momentum"),
    ],
)
def test_refuses_a_bad_recipe(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Recipe(**arguments)


def test_refuses_a_device_that_is_not_there(digits: Splits) -> None:
    with pytest.raises(InputError, match="no device nonsense"):
        fit(joint(), Joint(), digits, Recipe(device="nonsense"))


def test_refuses_a_batch_larger_than_the_data(digits: Splits) -> None:
    with pytest.raises(
        InputError, match=r"Recipe\.batch_size must be at most 256, the number of training images, got 257"
    ):
        fit(joint(), Joint(), digits, Recipe(batch_size=257))


def test_objectives_are_any_callable() -> None:
    objective: Objective = Joint()
    assert callable(objective)
