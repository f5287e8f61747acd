"""Objectives of several losses: each minimised in turn over its parameters; logging, saving and resuming."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Batch,
    ConvEncoder,
    DivergedError,
    Generation,
    InputError,
    Joint,
    Loop,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
)
from ae.runs.checkpoint import load_state
from ae.training.step import Step
from experiments import aae, gan
from tests.experiments.test_experiments import short
from tests.helpers.tiers import slow


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("experiment", [gan, slow(aae)])
def test_several_losses_resumed_equal_an_uninterrupted_run(experiment: Any, tmp_path: Path) -> None:
    config = short(experiment.Config(), tmp_path / "whole")
    if experiment is aae:
        config = replace(config, generation=Generation(components=0))
    config = replace(config, recipe=replace(config.recipe, schedule="constant", steps=3, batch_size=32))
    experiment.main(config)
    first_steps = replace(config.recipe, steps=2)
    experiment.main(replace(config, recipe=first_steps, run=RunConfig(dir=tmp_path / "parts", wandb="disabled")))
    experiment.main(replace(config, run=RunConfig(resume=tmp_path / "parts", wandb="disabled")))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("experiment", [gan, slow(aae)])
@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16"}, {"micro_batch": 11}, slow({"compile": True})],
)
def test_several_losses_train_in_bf16_in_parts_and_compiled(
    experiment: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    config = short(experiment.Config(), tmp_path / "run")
    if experiment is aae:
        config = replace(config, generation=Generation(components=0))
    experiment.main(replace(config, recipe=replace(config.recipe, steps=2, batch_size=32, **options)))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run/model.safetensors").values())


class Weights(nn.Module):
    """A model of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


class TwoLosses:
    """Losses a = sum of the weights, and b = 2 times the first weight, each trained by its own optimiser."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def learners(self, model: Weights) -> dict[str, Any]:
        return {"a": model.parameters(), "b": [model.weight]}

    def __call__(self, model: Weights, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
        terms = {"accuracy": torch.tensor(0.25)}
        yield "a", Loss(self.factor * model.weight.sum(), terms, {"accuracy": torch.tensor(3.0)})
        yield "b", Loss(2 * model.weight[0], {})


RECIPE = Recipe(steps=4, batch_size=50, momentum=0.0, schedule="constant", log_every=1)


def trained(objective: Any, data: Splits, folder: Path, **options: Any) -> tuple[Weights, dict[str, float]]:
    model = Weights()
    with Run("test", RunConfig(dir=folder, wandb="disabled")) as run:
        results = fit(model, objective, data, replace(RECIPE, **options), run)
    return model, results


@pytest.mark.parametrize("parts", [1, 3])
def test_fit_minimises_each_loss_in_turn_and_logs_it(digits: Splits, tmp_path: Path, parts: int) -> None:
    model, results = trained(TwoLosses(), digits, tmp_path / "run", micro_batch=-(-50 // parts))
    assert model.weight.tolist() == pytest.approx([1 - 4 * (0.1 + 0.2), 1 - 4 * 0.1])
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train/a"] for row in rows] == pytest.approx([2 - 0.4 * i for i in range(4)])
    assert rows[0]["train/b"] == pytest.approx(2 * 0.9)
    assert rows[0]["train/loss"] == pytest.approx(2 + 2 * 0.9)
    assert rows[0]["train/accuracy"] == 0.25
    assert rows[0]["train/gradient_norm/a"] == pytest.approx(math.sqrt(2))
    assert rows[0]["train/gradient_norm/b"] == pytest.approx(2)
    assert rows[0]["train/weight_norm"] == pytest.approx(math.hypot(1 - 0.3, 1 - 0.1), rel=1e-5)
    assert results["images_per_second"] > 0
    state = load_state(tmp_path / "run/state.pt")
    assert state is not None
    assert state["position"]["step"] == 4
    assert load_file(tmp_path / "run/model.safetensors")["weight"].tolist() == model.weight.tolist()


def test_fit_clips_the_gradient_of_each_loss(digits: Splits, tmp_path: Path) -> None:
    model, _ = trained(TwoLosses(), digits, tmp_path / "run", lr=1.0, grad_clip=0.5)
    share = 0.5 / math.sqrt(2)
    assert model.weight.tolist() == pytest.approx([1 - 4 * (share + 0.5), 1 - 4 * share], rel=1e-5)


def test_fit_stops_at_a_non_finite_loss_among_several(digits: Splits, tmp_path: Path) -> None:
    class Diverging(TwoLosses):
        def __call__(self, model: Weights, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
            yield "a", Loss(model.weight.sum(), {})
            yield "b", Loss(model.weight.sum() / (0 if step == 2 else 1), {})

    with pytest.raises(DivergedError, match=r"(b|loss) became NaN or infinite at step 2"):
        trained(Diverging(), digits, tmp_path / "run")
    state = load_state(tmp_path / "run/state.pt")
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state["trained"].values())


@pytest.mark.parametrize(
    ("yielded", "complaint"),
    [
        (("c", None), r"an objective must give a Loss"),
        ("a", r"must yield \(name, Loss\), yielded 'a'"),
        (("c", Loss(torch.ones((), requires_grad=True), {})), r"parameters by name: a, b; it yielded c"),
    ],
)
def test_fit_refuses_losses_that_are_none(digits: Splits, tmp_path: Path, yielded: Any, complaint: str) -> None:
    class Wrong(TwoLosses):
        def __call__(self, model: Weights, batch: Batch, step: int) -> Any:
            return iter([yielded])

    with pytest.raises(InputError, match=complaint):
        trained(Wrong(), digits, tmp_path / "run")


def test_fit_refuses_losses_that_are_never_yielded(digits: Splits, tmp_path: Path) -> None:
    class Half(TwoLosses):
        def __call__(self, model: Weights, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
            yield "a", Loss(model.weight.sum(), {})

    with pytest.raises(InputError, match="the objective has learners of b, and yielded no such loss"):
        trained(Half(), digits, tmp_path / "run")


@pytest.mark.parametrize("learners", [{}, [1], iter(())])
def test_fit_refuses_learners_without_names(digits: Splits, tmp_path: Path, learners: Any) -> None:
    class Wrong(TwoLosses):
        def learners(self, model: Weights) -> Any:
            return learners

    with pytest.raises(InputError, match=r"learners\(model\) must give the parameters of each loss by its name"):
        trained(Wrong(), digits, tmp_path / "run")


def test_loop_must_be_opened_before_its_batches(digits: Splits) -> None:
    with pytest.raises(InputError, match="open the loop before its batches"):
        next(iter(Loop(Weights(), lambda model, batch, step: Loss(model.weight.sum(), {}), digits, RECIPE)))


def test_fit_refuses_a_generator_without_learners(digits: Splits, tmp_path: Path) -> None:
    def objective(model: Weights, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
        yield "a", Loss(model.weight.sum(), {})

    with pytest.raises(InputError, match=r"an objective of several losses has learners\(model\)"):
        trained(objective, digits, tmp_path / "run")


def test_fit_refuses_losses_that_differ_between_parts(digits: Splits, tmp_path: Path) -> None:
    class Uneven(TwoLosses):
        def __call__(self, model: Weights, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
            yield "a" if len(batch) == 17 else "b", Loss(model.weight.sum(), {})

    with pytest.raises(InputError, match="must yield the same losses for each part of a batch"):
        trained(Uneven(), digits, tmp_path / "run", micro_batch=17)


def test_fit_averages_the_weights_of_any_module(digits: Splits, tmp_path: Path) -> None:
    model, _ = trained(TwoLosses(), digits, tmp_path / "run", ema=0.5)
    average, weight = 0.0, 1.0
    for step in range(4):
        weight -= 0.1
        average += (1 - min(0.5, step / (step + 1))) * (weight - average)
    assert model.weight[1].item() == pytest.approx(average)


def test_loop_of_ones_own_may_change_batches_and_skip_them(digits: Splits) -> None:
    model, sizes = Weights(), []

    def objective(model: Weights, batch: Batch, step: int) -> Loss:
        sizes.extend([len(batch)] if model.training else [])
        return Loss(batch.mean(batch.images.flatten(1).sum(1)) * model.weight.sum(), {})

    with Loop(model, objective, digits, RECIPE) as loop:
        for batch in loop:
            if loop.step % 2:
                loop.train(batch.with_images(batch.images * 0))
        results = loop.results()
    assert sizes == [50, 50]
    assert model.weight.tolist() == [1, 1]
    assert results["images_per_second"] > 0


def test_fit_in_parts_has_no_empty_part(digits: Splits, tmp_path: Path) -> None:
    """53 images in batches of 50, of 13 at a time."""
    sizes: list[int] = []

    def objective(model: Weights, batch: Batch, step: int) -> Loss:
        sizes.append(len(batch))
        return Loss(model.weight.sum(), {"size": torch.tensor(float(len(batch)))})

    few = Splits(digits.train.select(slice(53)))
    trained(objective, few, tmp_path / "run", steps=2, micro_batch=13)
    assert sizes == [13, 13, 12, 12, 3]
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["train/size"] for row in rows] == [12.5, 3.0]


def test_fit_refuses_a_part_of_one_image_for_batch_norm(digits: Splits) -> None:
    head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4 * 14 * 14), nn.Linear(4 * 14 * 14, 10))
    model = Autoencoder(ConvEncoder(1, (4,)), heads={"digit": head})
    with pytest.raises(InputError, match=r"a batch of one image gives batch norm in heads\.digit\.1 one value"):
        fit(model, Joint(reconstruction=0.0), digits, replace(RECIPE, batch_size=8, micro_batch=1))


def test_fit_gives_back_a_model_that_is_compiled_as_before(digits: Splits) -> None:
    model, before = Weights(), Weights().forward
    model._compiled_call_impl = before
    step = Step(model, TwoLosses())
    step.compile_parts()
    assert model._compiled_call_impl is not before
    step.release_parts()
    assert model._compiled_call_impl is before


def test_fit_reports_a_compilers_error_of_the_backward_pass_in_one_line(digits: Splits) -> None:
    """The backward pass is compiled when it is first taken."""
    from torch._dynamo.exc import TorchDynamoException

    def fail(gradient: Tensor) -> None:
        raise TorchDynamoException("no backend\nand more")

    model = Weights()
    model.weight.register_hook(fail)
    with pytest.raises(InputError, match=r"^Recipe\.compile failed: no backend: train without it$"):
        fit(model, TwoLosses(), digits, replace(RECIPE, compile=True))


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_gan_fork_starts_from_the_average_of_the_weights(tmp_path: Path) -> None:
    config = short(gan.Config(), tmp_path / "first")
    config = replace(config, recipe=replace(config.recipe, steps=2, batch_size=32, lr=1e-12))
    gan.main(config)
    recipe = replace(config.recipe, seed=7)
    gan.main(
        replace(config, recipe=recipe, run=RunConfig(fork=tmp_path / "first", dir=tmp_path / "fork", wandb="disabled"))
    )
    first, fork = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "fork"))
    for name, tensor in first.items():
        if name.endswith("weight"):
            torch.testing.assert_close(tensor, fork[name], rtol=0, atol=1e-5)
