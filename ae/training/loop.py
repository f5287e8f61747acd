"""The frame of a training loop that is not `fit`'s: for several losses, minimised in turn."""

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
"""Metrics, and pictures (Pillow's), by name."""


class Loop:
    """Batches to train on, and all that is the same in any loop: noise, learning rates, logging, saving, resuming.

        with Run("gan", config.run, config) as run, Loop(model, others, learners, data, recipe, run) as loop:
            for batch in loop:
                loop.minimise("discriminator", ...)
                loop.minimise("generator", ...)
            results = loop.results()

    `model` is what is saved as the run's weights, `others` what is trained beside it; `learners` says which parameters
    each loss trains: one may be in several. What was frozen stays frozen, as in `fit`. With `evaluate`, what it
    measures is logged as `val/...` at each evaluation, and its pictures are kept. `train/loss` is the sum of all
    losses. Raises InputError in several processes, and DivergedError as `fit` does.
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
        self._meter, self._loss = Meter(), _nothing(self.device)
        self._contexts = ExitStack()

    def __enter__(self) -> "Loop":
        self._run.begin_training(self._data)
        self._at = restore(self._run, self._trained, self._optimizers, self._meter, self._total_steps)
        self._run.watch(self._model)
        self._started = time.perf_counter() - self._at.seconds
        self._progress = self._contexts.enter_context(Progress(self._total_steps, self._at.step))
        self._contexts.enter_context(unchecked_range())
        self._contexts.enter_context(safely(self._run, self._recipe.deterministic))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.close()

    def __iter__(self) -> Iterator[Batch]:
        """The training batches that are left; between two of them all that is due is done."""
        at, recipe = self._at, self._recipe
        for batch in islice(self._batches.starting_at(at.step), self._total_steps - at.step):
            self._mode.apply()
            reseed(self.device, "noise", recipe.seed, at.step)
            self._lr = recipe.learning_rate(at.step, self._total_steps)
            self._loss = _nothing(self.device)
            yield batch
            self._meter.add(at.step, self._loss, len(batch))
            at.step += 1
            at.images += len(batch)
            self._progress.step()
            self._keep()

    @property
    def step(self) -> int:
        """The number of the batch, counted from 0."""
        return self._at.step

    def minimise(self, name: str, loss: Tensor | Loss) -> None:
        """One step of the optimiser of this name, on a scalar, logged as `train/NAME`; of a Loss, with its terms."""
        told = checked_loss(Loss(loss, {}) if isinstance(loss, Tensor) else loss, trains=True)
        optimizer = self._optimizers[name]
        set_learning_rate(optimizer, self._lr, self._ratios[name])
        optimizer.zero_grad()
        told.total.backward()
        if self._recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters[name], self._recipe.grad_clip)
        optimizer.step()
        value, before = told.total.detach(), self._loss
        self._loss = Loss(
            before.total + value, {**before.terms, **told.terms, name: value}, {**before.counts, **told.counts}
        )

    def results(self) -> dict[str, float]:
        """Save the model's weights; what `fit` returns."""
        at = self._at
        self._run.save_weights("model", self._model, self._data.shape, self._data.classes)
        at.seconds = time.perf_counter() - self._started
        return {
            **with_prefix("val", at.validation),
            "seconds": at.seconds,
            "images_per_second": at.images / (at.seconds - at.validation_seconds),
        }

    def _keep(self) -> None:
        """Log and save, where that is due."""
        at, recipe, run = self._at, self._recipe, self._run
        epoch = at.step / len(self._batches)
        evaluates = at.step % (recipe.evaluate_every or len(self._batches)) == 0 or at.step == self._total_steps
        logs = evaluates or epoch.is_integer() or at.step % recipe.log_every == 0
        saves = evaluates or run.saves_after(at.step) or run.wants_state()
        if not (logs or saves):
            return
        measured = self._meter.read()
        if self._meter.first_bad is not None:
            step, name = self._meter.first_bad
            raise diverged(name, step, recipe.learning_rate(step, self._total_steps), run)
        if saves and not is_finite(self._trained):
            raise diverged("a weight", at.step - 1, self._lr, run)
        if logs:
            norm = nn.utils.get_total_norm(list(self._trained.parameters())).item()
            measured |= {"learning_rate": self._lr, "weight_norm": norm}
            self._progress.show("train", measured, epoch)
            row = with_prefix("train", measured)
            pictures: dict[str, Any] = {}
            if evaluates and self._evaluate is not None:
                before = time.perf_counter()
                at.validation, pictures = self._evaluate()
                at.validation_seconds += time.perf_counter() - before
                self._progress.show("val", at.validation, epoch)
                row |= with_prefix("val", at.validation)
            run.log(row, at.step, epoch, pictures)
            self._meter.restart()
        if saves:
            at.seconds = time.perf_counter() - self._started
            run.save_state(state_of(at, self._trained, self._optimizers, self._meter))


def _nothing(device: torch.device) -> Loss:
    """The loss of a step in which nothing was minimised yet."""
    return Loss(torch.zeros((), device=device), {})
