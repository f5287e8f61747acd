"""The training loop, of which `fit` is the shortest use."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ae.data import Batch, Images, Splits
from ae.data.convert import as_splits
from ae.evaluation.evaluate import evaluate
from ae.evaluation.metrics import with_prefix
from ae.evaluation.plots import drawn, reconstruction_picture
from ae.models.autoencoder import Autoencoder
from ae.models.ema import average_
from ae.models.freezing import TrainingMode
from ae.models.lazy import check_materialised
from ae.objectives import Loss, check_objective, corruption_of
from ae.runs.run import Run
from ae.training.checkpointing import checkpointed
from ae.training.crowding import Crowding
from ae.training.learner import Learner
from ae.training.meter import Meter
from ae.training.micro_batch import fitting_micro_batch
from ae.training.precision import Precision, chosen_precision, emulation_warning
from ae.training.preflight import checked_model, compiler_errors, dry_run
from ae.training.progress import Progress
from ae.training.recipe import Recipe
from ae.training.sharding import fill, shard_stages, sharding_errors, without_weights
from ae.training.state import TrainState, diverged, is_finite, restore, restore_weights, safely, state_of
from ae.training.step import Objective, Step
from ae.utils import distributed, global_batch
from ae.utils.errors import InputError
from ae.utils.memory import keep_freed_memory
from ae.utils.seeding import reseed
from ae.utils.validation import checked, unchecked_range

if TYPE_CHECKING:
    from PIL.Image import Image

Pictures = Callable[[Any], "Mapping[str, Image]"]
"""Model that is validated -> pictures by name."""


class Loop:
    """Iterate over the training batches; between two batches, validate, log and save what is due.

        with Loop(model, objective, data, recipe, run) as loop:
            for batch in loop:
                loop.train(batch)
            results = loop.results()

    Arguments are those of `fit`. `loop.step` counts the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        data: Splits | Any,
        recipe: Recipe,
        run: Run | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        check_objective(objective)
        self.model = checked_model(model, objective)
        self._recipe, self._run = checked(recipe, Recipe, "recipe"), checked(run, Run | None, "run")
        self._device = recipe.find_device()
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        if self._device.type == "cpu":
            keep_freed_memory()
        data = as_splits(data)
        if run:
            run.begin_training(data)
        self._data = data.to(self._device)
        self._batches = self._data.batches(recipe.batch_size, recipe.seed)
        self._total_steps = recipe.steps or recipe.epochs * len(self._batches)
        recipe.check_warmup(self._total_steps)
        self._trained = Step(self.model, objective).to(self._device)
        self._averaged = self._trained.average_weights(recipe.ema)
        self._evaluated = self.model if self._averaged is None else self._averaged
        modules = [self.model, objective] if isinstance(objective, nn.Module) else [self.model]
        self._mode = TrainingMode(modules, None if self._evaluated is self.model else (self._evaluated, self.model))
        if isinstance(self.model, Autoencoder):
            sizes = [self._batches.size(step) for step in {0, min(self._total_steps, len(self._batches)) - 1}]
            smallest = min(size // _part_count(size, recipe.micro_batch) for size in sizes)
            dry_run(self.model, self._evaluated, self._mode, self._data, smallest, recipe.seed)
        check_materialised(self._trained)
        if not recipe.shard:  # sharded weights must be contiguous
            self._trained.to(memory_format=torch.channels_last)
        self._skeleton = without_weights(self.model) if recipe.shard else None
        self._pictures = pictures or partial(_reconstructions, self._data, corruption_of(objective))
        self._meter, self._contexts = Meter(), ExitStack()
        self._crowding = Crowding() if self._device.type == "cpu" and isinstance(self._data.train, Images) else None

    def __enter__(self) -> "Loop":
        recipe, trained = self._recipe, self._trained
        self._mode.apply()
        new = TrainState(self._precision(), micro_batch=self._micro_batch())
        before: Precision = "fp32" if recipe.precision == "auto" else recipe.precision  # version 0.1 had no auto
        saved = restore_weights(self._run, trained)
        distributed.replicate(trained)
        if recipe.shard:
            for model in dict.fromkeys((self.model, self._evaluated)):
                shard_stages(model, self._device)
        self._learners = self._make_learners()  # of the shards, if the weights are sharded
        optimizers = self._optimizers()
        self._state = restore(self._run, saved, trained, optimizers, self._meter, self._total_steps, new, before)
        if self._run and recipe.precision == "auto":
            self._run.settle("recipe.precision", self._state.precision)
        if self._run and recipe.micro_batch == "auto" and self._state.micro_batch is not None:
            self._run.settle("recipe.micro_batch", self._state.micro_batch)
        if self._run:
            self._run.watch(self.model)
        if recipe.checkpointing:
            self._contexts.enter_context(checkpointed(self.model))
        if recipe.compile:
            trained.compile_parts()
            self._contexts.callback(trained.release_parts)
        self._started = time.perf_counter() - self._state.seconds
        self._progress = self._contexts.enter_context(Progress(self._total_steps, self._state.step))
        if warning := emulation_warning(self._device, self._state.precision):
            self._progress.say(warning)
        self._contexts.enter_context(unchecked_range())
        self._contexts.enter_context(safely(self._run, recipe.deterministic))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.__exit__(kind, error, trace)

    @property
    def step(self) -> int:
        """Number of the step, counted from 0."""
        return self._state.step

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining training batches; between two batches, validate, log and save what is due."""
        if not hasattr(self, "_state"):
            raise InputError("open the loop before its batches: with Loop(...) as loop: for batch in loop: ...")
        state, recipe, run = self._state, self._recipe, self._run
        evaluate_every = recipe.evaluate_every or len(self._batches)
        for batch in islice(self._batches.starting_at(state.step, state.data), self._total_steps - state.step):
            epoch = (state.step + 1) / len(self._batches)
            evaluates = (state.step + 1) % evaluate_every == 0 or state.step + 1 == self._total_steps
            self._logs = evaluates or epoch.is_integer() or (state.step + 1) % recipe.log_every == 0
            self._lr = recipe.learning_rate(state.step, self._total_steps)
            yield batch
            state.images += self._batches.size(state.step)
            state.step += 1
            self._progress.step()
            saves = run is not None and (
                evaluates or run.saves_after(state.step) or distributed.agree(run.wants_state(), state.step)
            )
            if self._logs or saves:
                measured = self._meter.read()
                self._check_finite(with_weights=saves)
                if self._logs:
                    self._log(measured, epoch, evaluates)
                if run and saves:
                    state.seconds, state.data = time.perf_counter() - self._started, self._batches.state()
                    run.save_state(state_of(state, self._trained, self._optimizers(), self._meter))

    def train(self, batch: Batch) -> None:
        """Take one step on a batch: each of the objective's losses in turn, its gradient, and its update."""
        step, recipe, images = self._state.step, self._recipe, self._batches.size(self._state.step)
        parts = batch.parts(_part_count(images, self._state.micro_batch))
        losses = [self._trained.losses(part, step, self._state.precision) for part in parts]
        totals: list[Loss] = []
        norms: dict[str, Tensor] = {}
        for learner in self._learners.values():
            learner.drop_gradients()  # before the forward pass, which needs the memory
        left = set(self._learners)
        while (name := self._accumulate(losses, images, totals)) is not None:
            left.discard(name)
            norm = self._learners[name].finish_step(self._logs)
            if norm is not None:
                norms["gradient_norm" if name == "loss" else f"gradient_norm/{name}"] = norm
        if left:
            raise InputError(f"the objective has learners of {', '.join(sorted(left))}, and yielded no such loss")
        if self._averaged is not None and recipe.ema is not None:
            average_(self._averaged, self.model, step, recipe.ema)
        self._meter.add(step, Loss.sum(totals), images, norms)

    def _make_learners(self) -> dict[str, Learner]:
        """The learner of each loss, by its name."""
        groups = self._trained.parameters_of_losses()
        return {name: Learner(parameters, self._recipe) for name, parameters in groups.items()}

    def _optimizers(self) -> dict[str, Optimizer]:
        """The optimisers by the names that the state has for them."""
        return {"optimizer" if name == "loss" else name: each.optimizer for name, each in self._learners.items()}

    def _precision(self) -> Precision:
        """The precision of a new training."""
        precision, size = self._recipe.precision, self._batches.size(0)
        if precision != "auto":
            return precision
        share = size // (distributed.world_size() * _part_count(size, self._recipe.micro_batch))
        return distributed.from_main(lambda: chosen_precision(self.model, self._data.train.batch(slice(0, 1)), share))

    def _micro_batch(self) -> int | None:
        """The number of images at a time of a new training."""
        if self._recipe.micro_batch != "auto":
            return self._recipe.micro_batch
        few, share = self._data.train.batch(slice(0, 2)), _share(self._batches.size(0))
        return distributed.from_main(lambda: fitting_micro_batch(self._trained, few, share))

    def _accumulate(self, losses: list[Iterator[tuple[str, Loss]]], images: int, totals: list[Loss]) -> str | None:
        """Add the gradients of the next loss of each part of a batch; return the loss's name, or None at the end.

        The loss of the whole batch is appended to `totals`.
        """
        names, values = set(), []
        for i, iterator in enumerate(losses):
            with self._remedies(), global_batch.global_batch(images, i, len(losses)):
                if not totals:
                    part = ("part", i) if i else ()
                    reseed(self._device, *distributed.rank_key("noise", self._recipe.seed, self._state.step, *part))
                name, loss = next(iterator, (None, None))
                names.add(name)
                if name is None or loss is None:
                    continue
                if i == 0:
                    self._learner(name).start_step(self._lr)
                    if totals:  # the losses before may have reached its parameters
                        self._learners[name].drop_gradients()
                (loss.total if len(losses) == 1 else loss.total / len(losses)).backward()
                # ^ inside: checkpointing recomputes means over the whole batch here
                values.append(loss.detached())
        if len(names) > 1:
            raise InputError(f"an objective must yield the same losses for each part of a batch, yielded {names}")
        (name,) = names
        if name is not None:
            totals.append(Loss.mean(values, None if name == "loss" else name))
        return name

    @contextmanager
    def _remedies(self) -> Iterator[None]:
        """Errors that a setting of the recipe causes, as InputError."""
        with compiler_errors(self._recipe.compile), sharding_errors(self._recipe.shard):
            yield

    def _learner(self, name: str) -> Learner:
        if name not in self._learners:
            known = ", ".join(self._learners)
            raise InputError(
                f"an objective of several losses has learners(model), their parameters by name: {known}; "
                f"it yielded {name}"
            )
        return self._learners[name]

    def _check_finite(self, with_weights: bool) -> None:
        """Raise DivergedError if a loss was NaN or infinite since the last call, or a weight is."""
        distributed.share_buffers(self._trained)
        if self._meter.first_bad is not None:
            step, name = self._meter.first_bad
            raise diverged(name, step, self._recipe.learning_rate(step, self._total_steps), self._run)
        if with_weights and not is_finite(self._trained):
            raise diverged("a weight", self._state.step - 1, self._lr, self._run)

    def _log(self, measured: dict[str, float], epoch: float, evaluates: bool) -> None:
        """Log the means since the last row, and with `evaluates` the validation and pictures; save the best weights."""
        state, run, data = self._state, self._run, self._data
        measured |= {"learning_rate": self._lr, "weight_norm": self._weight_norm()}
        self._progress.show("train", measured, epoch)
        if self._crowding is not None and (warning := self._crowding.warning()):
            self._progress.say(warning)
        row = with_prefix("train", measured)
        if evaluates and data.validation is not None:
            before = time.perf_counter()
            state.validation = evaluate(self._evaluated, data.validation, self._trained.objective, self._total_steps)
            state.validation_seconds += time.perf_counter() - before
            self._progress.show("val", state.validation, epoch)
            row |= with_prefix("val", state.validation)
        if run:
            draws = evaluates and distributed.runs_for_main(self._evaluated)
            run.log(row, state.step, epoch, self._pictures(self._evaluated) if draws else {})
            if evaluates and state.validation.get("loss", math.inf) < state.best:
                state.best = state.validation["loss"]
                self._save_weights("best", self._evaluated)
        self._meter.restart()

    def _weight_norm(self) -> float:
        """The norm of all trained weights."""
        parameters = {id(p): p for learner in self._learners.values() for p in learner.parameters}
        return distributed.total_norm(list(parameters.values())).item()

    def results(self) -> dict[str, float]:
        """Load the average of the weights, if there is one, into the model; save it; return the results of `fit`."""
        state = self._state
        self.model.load_state_dict(self._evaluated.state_dict())
        if self._run:
            self._save_weights("model", self.model)
        state.seconds = time.perf_counter() - self._started
        return {
            **with_prefix("val", state.validation),
            "seconds": state.seconds,
            "images_per_second": state.images / (state.seconds - state.validation_seconds),
        }

    def _save_weights(self, name: Literal["model", "best"], model: nn.Module) -> None:
        if self._run:
            metrics = with_prefix("val", self._state.validation)
            if self._skeleton is not None:
                model = fill(self._skeleton, model)
            self._run.save_weights(name, model, self._data.shape, self._data.classes, metrics)


def _share(images: int) -> int:
    """The number of images of a batch in the process that has the most."""
    return -(-images // distributed.world_size())


def _part_count(images: int, micro_batch: int | str | None) -> int:
    """The number of parts of a batch, none of which is empty unless the shard of a process is; of "auto", 1."""
    if not isinstance(micro_batch, int):
        return 1
    return min(-(-_share(images) // micro_batch), max(images // distributed.world_size(), 1))


def _reconstructions(data: Splits, corruption: Any, model: nn.Module) -> "Mapping[str, Image]":
    """Draw images and reconstructions of a model that has a decoder."""
    if not isinstance(model, Autoencoder) or model.decoder is None:
        return {}
    images = data.train if data.validation is None else data.validation
    return drawn({"reconstructions": partial(reconstruction_picture, model, images, corruption=corruption)})
