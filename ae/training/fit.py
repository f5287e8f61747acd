"""The training loop."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ae.data import Batch, Splits
from ae.data.convert import as_splits
from ae.evaluation.metrics import evaluate, with_prefix
from ae.evaluation.plots import drawn, reconstruction_picture
from ae.models.autoencoder import Autoencoder
from ae.models.freezing import TrainingMode, trainable
from ae.models.lazy import check_materialised
from ae.objectives import Loss, check_objective, checked_loss, corruption_of
from ae.runs.run import Run
from ae.training.meter import Meter
from ae.training.preflight import checked_model, explained, look_first
from ae.training.progress import Progress
from ae.training.recipe import Recipe
from ae.training.state import diverged, is_finite, restore, safely, state_of
from ae.utils import distributed
from ae.utils.seeding import reseed
from ae.utils.validation import checked, unchecked_range

Objective = Callable[[Autoencoder, Batch, int], Loss]


def rate_ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Learning rate of each parameter group over the optimiser's own: 1 unless a factory set another."""
    usual = float(optimizer.defaults.get("lr") or 1.0)
    return [float(group.get("lr", usual)) / usual for group in optimizer.param_groups]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, ratios: Sequence[float]) -> None:
    """Set the learning rate of each group of parameters to its ratio of `lr`."""
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        group["lr"] = lr * ratio


class Step(nn.Module):
    """Model and objective as one module: what is compiled, and what holds every parameter that is trained."""

    def __init__(self, model: Autoencoder, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, step: int) -> Loss:
        """The loss of one batch."""
        return self.objective(self.model, batch, step)


def fit(
    model: nn.Module, objective: Objective, data: Splits | Any, recipe: Recipe, run: Run | None = None
) -> dict[str, float]:
    """Train `model` in place; with a `run`, log to it, save in it, and continue where it stopped.

    Returns the last validation's metrics as `val/...`; `seconds` spent in here, with validation, logging and saving;
    and `images_per_second`, training images over `seconds` less validation. All noise is a function of seed and step.
    Raises DivergedError where a value or a weight becomes NaN or infinite; such a state is never saved.

    The validation's loss is by the weights of terms that the training ends with, so that it compares over the whole of
    it. An objective that keeps an average of the model's weights, in a model `averaged` of its own, has that validated
    and saved; in the end the model has these weights.

    What was frozen before stays as it is: parameters with `requires_grad_(False)`; submodules in evaluation mode (a
    model that is in evaluation mode as a whole is trained as a whole); the buffers, such as batch norm's statistics, of
    modules whose parameters are all frozen. Of a model in a wrapper (`torch.compile`, `DataParallel`,
    `DistributedDataParallel`) the model itself is trained. Data that are no `Splits` are converted where they can mean
    one thing only (`ae.data.convert.as_splits`). Raises InputError, before the first step, for a model, an objective,
    data or an optimiser that can't be trained with.
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
    evaluate_every = recipe.evaluate_every or len(batches)
    trained = Step(autoencoder, objective).to(device)
    shown = getattr(objective, "averaged", autoencoder)
    modules = [autoencoder, objective] if isinstance(objective, nn.Module) else [autoencoder]
    mode = TrainingMode(modules, None if shown is autoencoder else (shown, autoencoder))
    smallest = min(batches.size(step) for step in {0, min(total_steps, len(batches)) - 1})
    look_first(autoencoder, shown, mode, data, smallest, recipe.seed)
    check_materialised(trained)
    trained.to(memory_format=torch.channels_last)
    parameters = trainable(trained.parameters())
    optimizer = recipe.make_optimizer(parameters)
    picture = partial(reconstruction_picture, shown, preview, corruption=corruption_of(objective))
    ratios = rate_ratios(optimizer)
    meter = Meter()
    at = restore(run, trained, {"optimizer": optimizer}, meter, total_steps)
    if run:
        run.watch(autoencoder)
    forward = distributed.wrapped(trained)
    if recipe.compile:
        forward.compile()
    started = time.perf_counter() - at.seconds
    mode.apply()

    with Progress(total_steps, at.step) as progress, unchecked_range(), safely(run, recipe.deterministic):
        for batch in islice(batches.starting_at(at.step), total_steps - at.step):
            epoch = (at.step + 1) / len(batches)
            evaluates = (at.step + 1) % evaluate_every == 0 or at.step + 1 == total_steps
            logs = evaluates or epoch.is_integer() or (at.step + 1) % recipe.log_every == 0

            images = batches.size(at.step)
            reseed(device, *distributed.rank_key("noise", recipe.seed, at.step))
            lr = recipe.learning_rate(at.step, total_steps)
            set_learning_rate(optimizer, lr, ratios)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
            optimizer.zero_grad()
            with explained(recipe.compile), distributed.global_batch(images):
                with autocast:
                    loss = checked_loss(forward(batch, at.step), trains=True)
                loss.total.backward()  # inside: what is recomputed for it, with checkpoints, is of the whole batch, too
            gradient_norm = _clip(parameters, recipe.grad_clip) if logs or recipe.grad_clip is not None else None
            optimizer.step()
            meter.add(at.step, loss, images, gradient_norm)
            at.step += 1
            at.images += images
            progress.step()

            saves = run is not None and (
                evaluates or run.saves_after(at.step) or distributed.agree(run.wants_state(), at.step)
            )
            if not (logs or saves):
                continue
            measured = meter.read()
            distributed.share_buffers(trained)
            if meter.first_bad is not None:
                step, name = meter.first_bad
                raise diverged(name, step, recipe.learning_rate(step, total_steps), run)
            if saves and not is_finite(trained):
                raise diverged("a weight", at.step - 1, lr, run)
            if logs:
                measured |= {"learning_rate": lr, "weight_norm": nn.utils.get_total_norm(parameters).item()}
                progress.show("train", measured, epoch)
                row = with_prefix("train", measured)
                if evaluates and data.validation is not None:
                    before = time.perf_counter()
                    at.validation = evaluate(shown, data.validation, objective, total_steps)
                    at.validation_seconds += time.perf_counter() - before
                    progress.show("val", at.validation, epoch)
                    row |= with_prefix("val", at.validation)
                if run:
                    shows = evaluates and autoencoder.decoder is not None and distributed.is_main()
                    run.log(row, at.step, epoch, drawn({"reconstructions": picture} if shows else {}))
                    if evaluates and at.validation.get("loss", math.inf) < at.best:
                        at.best = at.validation["loss"]
                        run.save_weights("best", shown, data.shape, data.classes, with_prefix("val", at.validation))
                meter.restart()
            if run and saves:
                at.seconds = time.perf_counter() - started
                run.save_state(state_of(at, trained, {"optimizer": optimizer}, meter))

    autoencoder.load_state_dict(shown.state_dict())
    if run:
        run.save_weights("model", autoencoder, data.shape, data.classes, with_prefix("val", at.validation))
    at.seconds = time.perf_counter() - started
    return {
        **with_prefix("val", at.validation),
        "seconds": at.seconds,
        "images_per_second": at.images / (at.seconds - at.validation_seconds),
    }


def _clip(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    """Scale the gradients down to a norm of `largest`, if it is given; returns the norm that they had."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
