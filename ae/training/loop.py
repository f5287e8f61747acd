"""Training loops with several losses, minimised in turn, such as a GAN's."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ae.data import Batch, Splits
from ae.evaluation.metrics import with_prefix
from ae.models.freezing import TrainingMode, trainable
from ae.models.lazy import check_materialised
from ae.models.wrappers import unwrapped
from ae.objectives import Loss, checked_loss
from ae.runs.run import Run
from ae.training.fit import rate_ratios, set_learning_rate
from ae.training.meter import Meter
from ae.training.progress import Progress
from ae.training.recipe import Recipe
from ae.training.state import diverged, is_finite, restore, safely, state_of
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import checked_arguments, unchecked_range

Evaluation = tuple[dict[str, float], dict[str, Any]]
"""Metrics by name, and pictures (Pillow's) by name."""


class Loop:
    """Iterate over training batches, with the noise, learning rates, logging, saving and resuming of `fit`.

        with Run("gan", config.run, config) as run, Loop(model, others, learners, data, recipe, run) as loop:
            for batch in loop:
                loop.minimise("discriminator", ...)
                loop.minimise("generator", ...)
            results = loop.results()

    model     is saved as the run's weights
    others    modules trained beside it, by name
    learners  the parameters that each loss trains, by name of the loss; a parameter may have several losses
    evaluate  returns metrics, logged as `val/...` at each evaluation, and pictures

    `train/loss` is the sum of all losses. Frozen parts stay frozen, as in `fit`. Raises InputError in several
    processes, and DivergedError as `fit` does.
    """

    @checked_arguments
    def __init__(
        self,
        model: nn.Module,
        others: Mapping[str, nn.Module],
        learners: Mapping[str, Iterable[nn.Parameter]],
        data: Splits,
        recipe: Recipe,
        run: Run,
        evaluate: Callable[[], Evaluation] | None = None,
    ) -> None:
        if distributed.world_size() > 1:
            raise InputError("this experiment has a loop of its own, which runs in one process only")
        if recipe.compile or recipe.precision != "fp32":
            raise InputError("this experiment has a loop of its own: it takes neither --recipe.compile nor bf16")
        if recipe.ema is not None:
            raise InputError("this experiment has a loop of its own, which keeps no average: leave Recipe.ema out")
        self.device = recipe.find_device()
        model = unwrapped(model)
        self._trained = nn.ModuleDict({"model": model, **others})
        check_materialised(self._trained)
        self._trained.to(self.device).to(memory_format=torch.channels_last)
        self._mode = TrainingMode([model, *others.values()])
        self._parameters = {name: trainable(parameters) for name, parameters in learners.items()}
        self._optimizers = {name: recipe.make_optimizer(parameters) for name, parameters in self._parameters.items()}
        self._ratios = {name: rate_ratios(optimizer) for name, optimizer in self._optimizers.items()}
        self._model, self._recipe, self._run, self._evaluate = model, recipe, run, evaluate
        self._data = data
        self._batches = data.to(self.device).batches(recipe.batch_size, recipe.seed)
        self._total_steps = recipe.steps or recipe.epochs * len(self._batches)
        recipe.check_warmup(self._total_steps)
        self._meter, self._loss = Meter(), _zero_loss(self.device)
        self._contexts = ExitStack()

    def __enter__(self) -> "Loop":
        self._run.begin_training(self._data)
        self._state = restore(self._run, self._trained, self._optimizers, self._meter, self._total_steps)
        self._run.watch(self._model)
        self._started = time.perf_counter() - self._state.seconds
        self._progress = self._contexts.enter_context(Progress(self._total_steps, self._state.step))
        self._contexts.enter_context(unchecked_range())
        self._contexts.enter_context(safely(self._run, self._recipe.deterministic))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.close()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining training batches; between two batches, log and save what is due."""
        state, recipe = self._state, self._recipe
        for batch in islice(self._batches.starting_at(state.step), self._total_steps - state.step):
            self._mode.apply()
            reseed(self.device, "noise", recipe.seed, state.step)
            self._lr = recipe.learning_rate(state.step, self._total_steps)
            self._loss = _zero_loss(self.device)
            yield batch
            self._meter.add(state.step, self._loss, len(batch))
            state.step += 1
            state.images += len(batch)
            self._progress.step()
            self._log_and_save()

    @property
    def step(self) -> int:
        """Return the number of the step, counted from 0."""
        return self._state.step

    def minimise(self, name: str, loss: Tensor | Loss) -> None:
        """Take one step of the optimiser `name` on a scalar or a Loss; logs it as `train/NAME`, and a Loss's terms."""
        loss = checked_loss(Loss(loss, {}) if isinstance(loss, Tensor) else loss, trains=True)
        optimizer = self._optimizers[name]
        set_learning_rate(optimizer, self._lr, self._ratios[name])
        optimizer.zero_grad()
        loss.total.backward()
        if self._recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters[name], self._recipe.grad_clip)
        optimizer.step()
        value, previous = loss.total.detach(), self._loss
        self._loss = Loss(
            previous.total + value, {**previous.terms, **loss.terms, name: value}, {**previous.counts, **loss.counts}
        )

    def results(self) -> dict[str, float]:
        """Save the model's weights and return the results, as `fit` does."""
        state = self._state
        self._run.save_weights("model", self._model, self._data.shape, self._data.classes)
        state.seconds = time.perf_counter() - self._started
        return {
            **with_prefix("val", state.validation),
            "seconds": state.seconds,
            "images_per_second": state.images / (state.seconds - state.validation_seconds),
        }

    def _log_and_save(self) -> None:
        """Log and save at the steps at which either is due."""
        state, recipe, run = self._state, self._recipe, self._run
        epoch = state.step / len(self._batches)
        evaluates = state.step % (recipe.evaluate_every or len(self._batches)) == 0 or state.step == self._total_steps
        logs = evaluates or epoch.is_integer() or state.step % recipe.log_every == 0
        saves = evaluates or run.saves_after(state.step) or run.wants_state()
        if not (logs or saves):
            return
        measured = self._meter.read()
        if self._meter.first_bad is not None:
            step, name = self._meter.first_bad
            raise diverged(name, step, recipe.learning_rate(step, self._total_steps), run)
        if saves and not is_finite(self._trained):
            raise diverged("a weight", state.step - 1, self._lr, run)
        if logs:
            norm = nn.utils.get_total_norm(list(self._trained.parameters())).item()
            measured |= {"learning_rate": self._lr, "weight_norm": norm}
            self._progress.show("train", measured, epoch)
            row = with_prefix("train", measured)
            pictures: dict[str, Any] = {}
            if evaluates and self._evaluate is not None:
                before = time.perf_counter()
                state.validation, pictures = self._evaluate()
                state.validation_seconds += time.perf_counter() - before
                self._progress.show("val", state.validation, epoch)
                row |= with_prefix("val", state.validation)
            run.log(row, state.step, epoch, pictures)
            self._meter.restart()
        if saves:
            state.seconds = time.perf_counter() - self._started
            run.save_state(state_of(state, self._trained, self._optimizers, self._meter))


def _zero_loss(device: torch.device) -> Loss:
    """Return the loss of a step before anything is minimised."""
    return Loss(torch.zeros((), device=device), {})
