"""`fit`: train a model."""

from typing import Any

from torch import nn

from ae.data import Splits
from ae.runs.run import Run
from ae.training.loop import Loop, Pictures
from ae.training.recipe import Recipe
from ae.training.step import Objective


def fit(
    model: nn.Module,
    objective: Objective,
    data: Splits | Any,
    recipe: Recipe,
    run: Run | None = None,
    pictures: Pictures | None = None,
) -> dict[str, float]:
    """Train `model` in place; with a `run`, log to it, save in it, and resume where it stopped.

    Returns the metrics of the last validation as `val/...`; `seconds`, with validation, logging and saving; and
    `images_per_second`, training images over `seconds` without validation. All noise is a function of seed and step.
    Raises DivergedError when a value or a weight becomes NaN or infinite; such a state is never saved.

    objective  `objective(model, batch, step) -> Loss`. One that has `learners(model) -> {name: parameters}` yields
               several losses, (name, Loss), each minimised over its parameters before the next is computed
               (`experiments/gan.py`). An objective that is a module may have weights of its own
    pictures   drawn of the validated model and logged, at each evaluation; default: reconstructions of an Autoencoder

    The validation loss uses the final weights of the terms, so that it is comparable throughout the training. With
    `Recipe.ema`, an average of the model's weights is validated and saved in place of the model, and copied into it at
    the end. A loss that reads the average has it as the objective's attribute `averaged`, a copy of the model.

    Frozen parts stay frozen: parameters with `requires_grad_(False)`; submodules in evaluation mode; and the buffers,
    such as batch norm's statistics, of modules whose parameters are all frozen. A model in evaluation mode as a whole
    is trained as a whole. A model in a wrapper (`torch.compile`, `DataParallel`, `DistributedDataParallel`) is
    unwrapped. Data other than `Splits` are converted where the conversion is unambiguous
    (`ae.data.convert.as_splits`). Raises InputError before the first step for an unusable model, objective, data set
    or optimiser.
    """
    with Loop(model, objective, data, recipe, run, pictures) as loop:
        for batch in loop:
            loop.train(batch)
        return loop.results()
