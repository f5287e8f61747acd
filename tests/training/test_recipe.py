"""Schedules, optimisers and devices of a recipe."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from ae import (
    InputError,
    Joint,
    Recipe,
    Splits,
    fit,
)
from ae.training.learner import Learner
from tests.helpers.small import SHORT, autoencoder, changed_tensors, copied_state


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize("total", [1, 2, 3, 10, 430, 1000])
def test_one_cycle_equals_pytorch(total: int) -> None:
    recipe = Recipe(schedule="one-cycle", lr=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total, cycle_momentum=False)
    for step in range(total):
        assert recipe.learning_rate(step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            schedule.step()


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_cosine_equals_pytorch(total: int) -> None:
    optimizer = torch.optim.SGD(parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for step in range(total):
        rate = Recipe(lr=0.3, schedule="cosine").learning_rate(step, total)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_adam_equals_pytorch(few: Splits) -> None:
    one, other = autoencoder(), autoencoder()
    fit(one, Joint(), few, replace(SHORT, optimizer="adam", weight_decay=0.1, betas=(0.5, 0.9)))
    adam = partial(torch.optim.Adam, weight_decay=0.1, betas=(0.5, 0.9), fused=True)
    fit(other, Joint(), few, replace(SHORT, optimizer=adam))
    assert changed_tensors(copied_state(one), other) == []


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_warmup_equals_pytorch(kind: Any) -> None:
    """PyTorch's LinearLR, then its schedule over the steps that are left."""
    total, warmup = 20, 5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    after: torch.optim.lr_scheduler.LRScheduler = {
        "constant": torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup),
        "linear": torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total - warmup),
    }[kind]
    expected = [0.3 * (step + 1) / warmup for step in range(warmup)]
    for _ in range(warmup, total):
        expected.append(float(after.get_last_lr()[0]))
        optimizer.step()
        after.step()
    recipe = Recipe(lr=0.3, schedule=kind, warmup=warmup)
    assert [recipe.learning_rate(step, total) for step in range(total)] == pytest.approx(expected)


def test_fit_refuses_a_warmup_that_the_training_does_not_reach(few: Splits) -> None:
    recipe = replace(SHORT, schedule="cosine", steps=4, warmup=4)
    with pytest.raises(InputError, match=r"Recipe\.warmup must be less than the 4 steps, got 4"):
        fit(autoencoder(), Joint(), few, recipe)
    fit(autoencoder(), Joint(), few, replace(recipe, warmup=3))


def test_recipe_refuses_warmup_that_its_schedule_does_not_read() -> None:
    with pytest.raises(InputError, match="warmup is not read by one-cycle"):
        Recipe(warmup=5)


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
def test_recipe_refuses_values_out_of_range(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Recipe(**arguments)


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (torch.optim.LBFGS, "gave LBFGS, which needs a closure"),
        (lambda p: torch.optim.SGD(p[:1], lr=0.1), "leaves out 1 of 2 parameters: freeze those"),
        (lambda p: torch.optim.SGD(p, lr=0.3), "sets a learning rate of 0.3: give it as Recipe.lr"),
        (lambda p: None, "must give a torch.optim.Optimizer, gave NoneType"),
        (lambda: None, "can't make an optimiser of parameters: .*takes 0 positional arguments"),
        (partial(torch.optim.Adam, betas=(2.0, 0.9)), "can't make an optimiser of parameters: Invalid beta"),
    ],
)
def test_recipe_refuses_unusable_optimizers(factory: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Recipe(optimizer=factory, lr=0.1).make_optimizer(parameters())


def test_learner_keeps_the_ratios_of_groups() -> None:
    first, second = parameters()
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.01}, {"params": [second]}]
    learner = Learner([first, second], Recipe(lr=0.1, optimizer=lambda _: torch.optim.SGD(groups, lr=0.1)))
    learner.start_step(0.5)
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize(
    ("factor", "complaint"),
    [(math.nan, "finite, got nan"), (-1.0, "0 or more, got -1.0"), ("a", "a number 0 or more, got .a.")],
)
@pytest.mark.usefixtures("unhooked")
def test_recipe_refuses_invalid_factors_of_a_schedule(factor: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"Recipe\.schedule gives at step 3 of 9 must be {complaint}"):
        Recipe(schedule=lambda step, steps: factor).learning_rate(3, 9)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "", "cpu:x", "xpu", "hpu", "mtia", "fpga", "privateuseone"])
def test_recipe_refuses_a_device_in_one_line(device: str) -> None:
    with pytest.raises(InputError, match=r"Recipe\.device: no device") as error:
        Recipe(device=device).find_device()
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unhooked")
def test_recipe_refuses_meta_and_takes_a_torch_device() -> None:
    with pytest.raises(InputError, match="meta has no values"):
        Recipe(device="meta").find_device()
    assert Recipe(device=torch.device("cpu")).find_device() == torch.device("cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_of_weights_leaves_biases_and_norms_alone(optimizer: Any) -> None:
    """With gradients of zero, an optimiser without momentum changes what decays only."""
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    options: dict[str, Any] = {"momentum": 0.0} if optimizer == "sgd" else {}
    recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.5, decays="weights", **options)
    step = recipe.make_optimizer(list(module.parameters()))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert changed == [parameter.ndim > 1 for parameter in module.parameters()]
