"""Loops with several losses: logging, saving and resuming."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ae import DivergedError, Generation, InputError, Loop, Loss, Recipe, Run, RunConfig, Splits
from ae.runs.checkpoint import load_state
from experiments import aae, gan
from tests.experiments.test_experiments import short


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("experiment", [gan, aae])
def test_loop_resumed_equals_an_uninterrupted_run(experiment: Any, tmp_path: Path) -> None:
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


class Weights(nn.Module):
    """A model of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def open_loop(digits: Splits, folder: Path, lr: float = 0.1, **options: Any) -> tuple[Weights, Run, Loop]:
    model, recipe = Weights(), Recipe(steps=4, batch_size=50, lr=lr, momentum=0.0, schedule="constant", **options)
    run = Run("test", RunConfig(dir=folder, wandb="disabled"))
    return model, run, Loop(model, {}, {"a": model.parameters(), "b": [model.weight]}, digits, recipe, run)


def test_loop_minimises_each_loss_in_turn_and_logs_it(digits: Splits, tmp_path: Path) -> None:
    model, run, loop = open_loop(digits, tmp_path / "run", log_every=1, evaluate_every=2)
    with run, loop:
        for batch in loop:
            assert len(batch) == 50
            loop.minimise("a", model.weight.sum())
            loop.minimise("b", 2 * model.weight[0])
        results = loop.results()
    assert model.weight.tolist() == pytest.approx([1 - 4 * (0.1 + 0.2), 1 - 4 * 0.1])
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train/a"] for row in rows] == pytest.approx([2 - 0.4 * i for i in range(4)])
    assert rows[0]["train/b"] == pytest.approx(2 * 0.9)
    assert rows[0]["train/loss"] == pytest.approx(2 + 2 * 0.9)
    assert results["images_per_second"] > 0
    state = load_state(tmp_path / "run/state.pt")
    assert state is not None
    assert state["position"]["step"] == 4
    assert load_file(tmp_path / "run/model.safetensors")["weight"].tolist() == model.weight.tolist()


def test_loop_clips_gradients(digits: Splits, tmp_path: Path) -> None:
    model, run, loop = open_loop(digits, tmp_path / "run", lr=1.0, grad_clip=0.5)
    with run, loop:
        for _ in loop:
            loop.minimise("a", 30 * model.weight[0] + 40 * model.weight[1])
    assert model.weight.tolist() == pytest.approx([1 - 4 * 0.3, 1 - 4 * 0.4])


def test_loop_stops_at_a_non_finite_loss(digits: Splits, tmp_path: Path) -> None:
    model, run, loop = open_loop(digits, tmp_path / "run", log_every=1)

    def train() -> None:
        with run, loop:
            for _ in loop:
                loop.minimise("b", model.weight.sum() / (0 if loop.step == 2 else 1))

    with pytest.raises(DivergedError, match="b became NaN or infinite at step 2"):
        train()
    state = load_state(tmp_path / "run/state.pt")
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state["trained"].values())


def test_loop_refuses_several_processes(digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model = Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")), Weights()
    monkeypatch.setattr("ae.utils.distributed.world_size", lambda: 2)
    with pytest.raises(InputError, match="in one process only"):
        Loop(model, {}, {"a": model.parameters()}, digits, Recipe(), run)


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16"}])
def test_loop_refuses_compile_and_bf16(digits: Splits, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"neither --recipe\.compile nor bf16"):
        open_loop(digits, tmp_path / "run", **options)


def test_loop_refuses_an_average_of_the_weights(digits: Splits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"keeps no average: leave Recipe\.ema out"):
        open_loop(digits, tmp_path / "run", ema=0.9)


def test_loop_refuses_a_warmup_that_the_training_does_not_reach(digits: Splits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Recipe\.warmup must be less than the 4 steps, got 9"):
        open_loop(digits, tmp_path / "run", warmup=9)


def test_loop_logs_the_terms_of_a_loss(digits: Splits, tmp_path: Path) -> None:
    model, run, loop = open_loop(digits, tmp_path / "run", log_every=1)
    with run, loop:
        for _ in loop:
            total = model.weight.sum()
            loop.minimise("a", Loss(total, {"accuracy": torch.tensor(0.25)}, {"accuracy": torch.tensor(3.0)}))
            loop.minimise("b", model.weight[0])
    first = json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[0])
    assert (first["train/a"], first["train/accuracy"]) == (2.0, 0.25)
    assert first["train/weight_norm"] == pytest.approx(math.hypot(1 - 0.2, 1 - 0.1), rel=1e-5)


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
