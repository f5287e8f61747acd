"""Check of exact resume, for any model and objective."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ae import Autoencoder, Recipe, Run, RunConfig, Splits, fit
from ae.training.step import Objective

RECIPE = Recipe(steps=4, batch_size=24, optimizer="adamw", lr=0.003, schedule="constant", evaluate_every=2)


class Modules(nn.Module):
    """Model and objective, as trained and saved."""

    def __init__(self, model: Autoencoder, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective


def check_resume(make: Callable[[], tuple[Autoencoder, Objective]], data: Splits, folder: Path, **options: Any) -> None:
    """Compare, to the bit, the state after 2 steps and a resume of 2 more with the state after 4 steps."""
    states = []
    for stops in ((4,), (2, 4)):
        run_folder = folder / str(len(stops))
        for steps in stops:
            model, objective = make()
            resumes = {"resume": run_folder} if steps != stops[0] else {"dir": run_folder}
            with Run("test", RunConfig(**resumes, wandb="disabled")) as run:  # type: ignore[arg-type]
                fit(model, objective, data, replace(RECIPE, steps=steps, **options), run)
        states.append(Modules(model, objective).state_dict())
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
