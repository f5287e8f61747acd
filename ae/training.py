"""Training: what can be chosen, and the one loop."""

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ae import distributed
from ae.data import Batch, Splits
from ae.data.convert import as_splits
from ae.errors import InputError, one_line
from ae.freezing import TrainingMode, trainable
from ae.lazy import check_materialised
from ae.meter import Meter
from ae.metrics import evaluate, with_prefix
from ae.model import Autoencoder
from ae.objectives import Loss, checked_loss, corruption_of
from ae.pictures import drawn, reconstruction_picture
from ae.preflight import check_objective, checked_model, explained, look_first
from ae.progress import Progress
from ae.run import Run
from ae.seeding import reseed
from ae.standing import diverged, is_finite, restore, safely, state_of
from ae.validation import AtLeast0, BelowOne, Positive, Settings, check_unread, checked, unchecked_range

Objective = Callable[[Autoencoder, Batch, int], Loss]
Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Parameters -> their optimiser, as `torch.optim.RMSprop` is one."""
Schedule = Callable[[int, int], float]
"""(step counted from 0, number of steps) -> factor of the learning rate."""


@dataclass(frozen=True)
class Recipe(Settings):
    """How to train: length, batch, optimiser, schedule, precision."""

    epochs: Positive[int] = 4  # passes over the training images
    steps: Positive[int] | None = None  # train for so many steps instead
    batch_size: Positive[int] = 128  # images a step
    optimizer: Literal["sgd", "adam", "adamw"] | Factory = "sgd"  # sgd: with momentum; adamw: Adam, decoupled decay
    lr: Positive[float] = 0.1  # learning rate; the highest of a schedule
    momentum: BelowOne = 0.9  # of sgd
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # of adam and adamw
    nesterov: bool = False  # Nesterov's momentum, of sgd
    weight_decay: AtLeast0[float] = 0.0  # L2 for sgd and adam, decoupled for adamw
    schedule: Literal["constant", "one-cycle", "cosine"] | Schedule = "one-cycle"  # one-cycle: up in 30 % of the steps
    clip: Positive[float] | None = None  # largest norm of the gradient
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and optimiser stay fp32
    compile: bool = False  # torch.compile the step
    seed: int = 0  # of the weights, the order of the images, and all noise
    evaluate_every: Positive[int] | None = None  # steps between validations (default: an epoch's)
    log_every: Positive[int] = 50  # steps between logged values
    device: str = "auto"  # auto: cuda, mps or cpu, the first there is
    deterministic: bool = False  # only algorithms that give the same bits each time; on a CPU all do

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", _device_name(self.device))
        super().__post_init__()
        unread = {"sgd": ("betas",), "adam": ("momentum", "nesterov"), "adamw": ("momentum", "nesterov")}
        kind = self.optimizer if isinstance(self.optimizer, str) else "an optimizer of your own"
        names = unread.get(str(self.optimizer), ("betas", "momentum", "nesterov", "weight_decay"))
        check_unread(self, names, f"by {kind}: leave it out, or choose another Recipe.optimizer")
        if self.nesterov and not self.momentum:
            raise InputError("Recipe.nesterov needs a Recipe.momentum above 0")

    def may_change(self, name: str) -> bool:
        """Whether a run may be continued with another value: what decides where it leads may not."""
        if name in ("epochs", "steps"):
            return self.schedule == "constant"
        return name in ("evaluate_every", "log_every", "device", "compile", "deterministic")

    def learning_rate(self, step: int, total_steps: int) -> float:
        """The learning rate of a step counted from 0; a function of position, so that resuming needs no state.

        one-cycle: Smith & Topin 2018, in PyTorch's form: cosine from lr/25 up to lr over the first 30 % of the steps,
        then cosine down to lr/250,000. Momentum stays constant. cosine: from lr down to 0 (Loshchilov & Hutter 2017,
        equation 5, without restarts). A function gives a factor of lr. Raises InputError where that is no number.
        """
        if callable(self.schedule):
            name = f"the factor that Recipe.schedule gives at step {step} of {total_steps}"
            return self.lr * checked(self.schedule(step, total_steps), AtLeast0[float], name)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return _cosine(self.lr, 0.0, step / total_steps)
        low, high, last = self.lr / 25, self.lr, self.lr / 250_000
        peak = 0.3 * total_steps - 1
        if step <= peak:
            return _cosine(low, high, step / peak)
        return _cosine(high, last, (step - peak) / (total_steps - 1 - peak))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser; its learning rate is set at each step.

        Raises InputError where a factory gives no optimiser, or one that this loop can't use: one that needs a closure,
        leaves parameters out, or has a learning rate that is not the recipe's.
        """
        if callable(self.optimizer):
            return self._from_factory(self.optimizer, parameters)
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, betas=self.betas, **options)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, betas=self.betas, **options)
        return torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.nesterov, **options)

    def _from_factory(self, factory: Factory, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        try:
            optimizer = factory(parameters)
        except (TypeError, ValueError) as error:
            raise InputError(f"Recipe.optimizer can't make an optimiser of parameters: {one_line(error)}") from error
        name = type(optimizer).__name__
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"Recipe.optimizer must give a torch.optim.Optimizer, gave {name}")
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise InputError(f"Recipe.optimizer gave {name}, which needs a closure: choose one that takes single steps")
        taken = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        left_out = sum(id(parameter) not in taken for parameter in parameters)
        if left_out:
            cure = "freeze those with requires_grad_(False)"
            raise InputError(f"Recipe.optimizer leaves out {left_out} of {len(parameters)} parameters: {cure}")
        usual = inspect.signature(type(optimizer)).parameters.get("lr")
        own = optimizer.defaults.get("lr")
        if usual is not None and own is not None and float(own) != self.lr and own != usual.default:
            raise InputError(f"Recipe.optimizer sets a learning rate of {float(own):g}: give it as Recipe.lr")
        return optimizer

    def find_device(self) -> torch.device:
        """The device to train on."""
        if self.device != "auto":
            try:
                device = torch.zeros(1, device=self.device).device
            except (RuntimeError, AssertionError, ImportError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError(f"Recipe.device: no device {self.device}: {reason}") from error
            if device.type == "meta":
                raise InputError("Recipe.device must be one that computes: meta has no values")
            return device
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device_name(device: Any) -> Any:
    """A `torch.device` as text; anything else as it is."""
    return str(device) if isinstance(device, torch.device) else device


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def rate_ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Of each group of parameters, its learning rate over the optimiser's own: 1 but where a factory gave it one."""
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
            reseed(device, *distributed.own("noise", recipe.seed, at.step))
            lr = recipe.learning_rate(at.step, total_steps)
            set_learning_rate(optimizer, lr, ratios)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
            optimizer.zero_grad()
            with explained(recipe.compile), distributed.one_batch(images):
                with autocast:
                    loss = checked_loss(forward(batch, at.step), trains=True)
                loss.total.backward()  # inside: what is recomputed for it, with checkpoints, is of the whole batch, too
            gradient_norm = _clip(parameters, recipe.clip) if logs or recipe.clip is not None else None
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
