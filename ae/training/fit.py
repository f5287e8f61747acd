"""The training loop."""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ae.data import Batch, Splits
from ae.data.convert import as_splits
from ae.evaluation.evaluate import evaluate
from ae.evaluation.metrics import with_prefix
from ae.evaluation.plots import drawn, reconstruction_picture
from ae.models.autoencoder import Autoencoder
from ae.models.ema import average_
from ae.models.freezing import TrainingMode, trainable
from ae.models.lazy import check_materialised
from ae.objectives import Loss, check_objective, checked_loss, corruption_of
from ae.runs.run import Run
from ae.training.meter import Meter
from ae.training.preflight import checked_model, compiler_errors, dry_run
from ae.training.progress import Progress
from ae.training.recipe import Recipe
from ae.training.state import diverged, is_finite, restore, safely, state_of
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import checked, unchecked_range

Objective = Callable[[Autoencoder, Batch, int], Loss]


def rate_ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each parameter group's learning rate over the optimiser's default: 1 unless a factory set another."""
    default = float(optimizer.defaults.get("lr") or 1.0)
    return [float(group.get("lr", default)) / default for group in optimizer.param_groups]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, ratios: Sequence[float]) -> None:
    """Set the learning rate of each parameter group to its ratio times `lr`."""
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        group["lr"] = lr * ratio


class Step(nn.Module):
    """Model and objective as one module, which is compiled and holds every trained parameter."""

    def __init__(self, model: Autoencoder, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.averaged: nn.Module | None = None  # average of the model's weights, saved with the training state

    def forward(self, batch: Batch, step: int) -> Loss:
        """Compute the loss of one batch."""
        return self.objective(self.model, batch, step)


def weight_average(model: Autoencoder, objective: Objective, decay: float | None) -> Autoencoder | None:
    """Return a copy of the model for the average of its weights, or None without a decay.

    Raises InputError if the objective keeps an average, too.
    """
    if decay is None:
        return None
    if hasattr(objective, "averaged"):
        raise InputError(f"{type(objective).__name__} keeps an average of the weights: leave Recipe.ema out")
    return deepcopy(model).requires_grad_(False).eval()


def fit(
    model: nn.Module, objective: Objective, data: Splits | Any, recipe: Recipe, run: Run | None = None
) -> dict[str, float]:
    """Train `model` in place; with a `run`, log to it, save in it, and resume where it stopped.

    Returns the metrics of the last validation as `val/...`; `seconds`, with validation, logging and saving; and
    `images_per_second`, training images over `seconds` without validation. All noise is a function of seed and step.
    Raises DivergedError when a value or a weight becomes NaN or infinite; such a state is never saved.

    The validation loss uses the final weights of the terms, so that it is comparable throughout the training. An
    average of the model's weights, that of `Recipe.ema` or the objective's attribute `averaged`, is validated and saved
    in place of the model, and copied into it at the end.

    Frozen parts stay frozen: parameters with `requires_grad_(False)`; submodules in evaluation mode; and the buffers,
    such as batch norm's statistics, of modules whose parameters are all frozen. A model in evaluation mode as a whole
    is trained as a whole. A model in a wrapper (`torch.compile`, `DataParallel`, `DistributedDataParallel`) is
    unwrapped. Data other than `Splits` are converted where the conversion is unambiguous
    (`ae.data.convert.as_splits`). Raises InputError before the first step for an unusable model, objective, data set
    or optimiser.
    """
    autoencoder = checked_model(model)
    check_objective(objective)
    recipe, run = checked(recipe, Recipe, "recipe"), checked(run, Run | None, "run")
    device = recipe.find_device()
    data = as_splits(data)
    if run:
        run.begin_training(data)
    data = data.to(device)
    preview = data.train if data.validation is None else data.validation
    batches = data.batches(recipe.batch_size, recipe.seed)
    total_steps = recipe.steps or recipe.epochs * len(batches)
    recipe.check_warmup(total_steps)
    evaluate_every = recipe.evaluate_every or len(batches)
    trained = Step(autoencoder, objective).to(device)
    trained.averaged = weight_average(autoencoder, objective, recipe.ema)
    evaluated = getattr(objective, "averaged", autoencoder) if trained.averaged is None else trained.averaged
    modules = [autoencoder, objective] if isinstance(objective, nn.Module) else [autoencoder]
    mode = TrainingMode(modules, None if evaluated is autoencoder else (evaluated, autoencoder))
    smallest_batch = min(batches.size(step) for step in {0, min(total_steps, len(batches)) - 1})
    dry_run(autoencoder, evaluated, mode, data, smallest_batch, recipe.seed)
    check_materialised(trained)
    trained.to(memory_format=torch.channels_last)
    parameters = trainable(trained.parameters())
    optimizer = recipe.make_optimizer(parameters)
    picture = partial(reconstruction_picture, evaluated, preview, corruption=corruption_of(objective))
    ratios = rate_ratios(optimizer)
    meter = Meter()
    state = restore(run, trained, {"optimizer": optimizer}, meter, total_steps)
    if run:
        run.watch(autoencoder)
    forward = distributed.data_parallel(trained)
    if recipe.compile:
        forward.compile()
    started = time.perf_counter() - state.seconds
    mode.apply()

    with Progress(total_steps, state.step) as progress, unchecked_range(), safely(run, recipe.deterministic):
        for batch in islice(batches.starting_at(state.step), total_steps - state.step):
            epoch = (state.step + 1) / len(batches)
            evaluates = (state.step + 1) % evaluate_every == 0 or state.step + 1 == total_steps
            logs = evaluates or epoch.is_integer() or (state.step + 1) % recipe.log_every == 0

            images = batches.size(state.step)
            reseed(device, *distributed.rank_key("noise", recipe.seed, state.step))
            lr = recipe.learning_rate(state.step, total_steps)
            set_learning_rate(optimizer, lr, ratios)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
            optimizer.zero_grad()
            with compiler_errors(recipe.compile), distributed.global_batch(images):
                with autocast:
                    loss = checked_loss(forward(batch, state.step), trains=True)
                loss.total.backward()  # inside: checkpointing recomputes means over the whole batch here
            gradient_norm = _clip(parameters, recipe.grad_clip) if logs or recipe.grad_clip is not None else None
            optimizer.step()
            if trained.averaged is not None and recipe.ema is not None:
                average_(trained.averaged, autoencoder, state.step, recipe.ema)
            meter.add(state.step, loss, images, gradient_norm)
            state.step += 1
            state.images += images
            progress.step()

            saves = run is not None and (
                evaluates or run.saves_after(state.step) or distributed.agree(run.wants_state(), state.step)
            )
            if not (logs or saves):
                continue
            measured = meter.read()
            distributed.share_buffers(trained)
            if meter.first_bad is not None:
                step, name = meter.first_bad
                raise diverged(name, step, recipe.learning_rate(step, total_steps), run)
            if saves and not is_finite(trained):
                raise diverged("a weight", state.step - 1, lr, run)
            if logs:
                measured |= {"learning_rate": lr, "weight_norm": nn.utils.get_total_norm(parameters).item()}
                progress.show("train", measured, epoch)
                row = with_prefix("train", measured)
                if evaluates and data.validation is not None:
                    before = time.perf_counter()
                    state.validation = evaluate(evaluated, data.validation, objective, total_steps)
                    state.validation_seconds += time.perf_counter() - before
                    progress.show("val", state.validation, epoch)
                    row |= with_prefix("val", state.validation)
                if run:
                    draws = evaluates and autoencoder.decoder is not None and distributed.is_main()
                    run.log(row, state.step, epoch, drawn({"reconstructions": picture} if draws else {}))
                    if evaluates and state.validation.get("loss", math.inf) < state.best:
                        state.best = state.validation["loss"]
                        run.save_weights(
                            "best", evaluated, data.shape, data.classes, with_prefix("val", state.validation)
                        )
                meter.restart()
            if run and saves:
                state.seconds = time.perf_counter() - started
                run.save_state(state_of(state, trained, {"optimizer": optimizer}, meter))

    autoencoder.load_state_dict(evaluated.state_dict())
    if run:
        run.save_weights("model", autoencoder, data.shape, data.classes, with_prefix("val", state.validation))
    state.seconds = time.perf_counter() - started
    return {
        **with_prefix("val", state.validation),
        "seconds": state.seconds,
        "images_per_second": state.images / (state.seconds - state.validation_seconds),
    }


def _clip(parameters: list[nn.Parameter], max_norm: float | None) -> Tensor:
    """Clip the gradients to `max_norm`, unless it is None; returns their norm before clipping."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
