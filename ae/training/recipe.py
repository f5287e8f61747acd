"""The recipe of a training: length, batch size, optimiser, schedule and precision."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ae.utils.errors import InputError, first_line, one_line
from ae.utils.validation import AtLeast0, BelowOne, Positive, Settings, check_unread, checked

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Parameters -> optimiser, such as the class `torch.optim.RMSprop`."""
Schedule = Callable[[int, int], float]
"""(step counted from 0, number of steps) -> factor of the learning rate."""


@dataclass(frozen=True)
class Recipe(Settings):
    """Length, batch size, optimiser, schedule and precision of a training.

    With `micro_batch`, means over the batch are those of the whole. What couples images is over each part: batch norm,
    free bits, the mutual information and total correlation of `BetaTC`, `MMD`, a teacher's alignment, and statistics of
    codes such as perplexity. An objective of several losses holds the graphs of all parts until the step ends.
    """

    epochs: Positive[int] = 4  # passes over the training images
    steps: Positive[int] | None = None  # number of steps; overrides epochs
    batch_size: Positive[int] = 128  # images a step
    micro_batch: Positive[int] | Literal["auto"] | None = None  # images at a time: less memory; auto: those that fit
    optimizer: Literal["sgd", "adam", "adamw"] | Factory = "sgd"  # sgd: with momentum; adamw: Adam, decoupled decay
    lr: Positive[float] = 0.1  # learning rate; the maximum of a schedule
    momentum: BelowOne = 0.9  # of sgd
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # of adam and adamw
    nesterov: bool = False  # Nesterov's momentum, of sgd
    weight_decay: AtLeast0[float] = 0.0  # L2 for sgd and adam, decoupled for adamw
    decays: Literal["all", "weights"] = "all"  # weights: no decay of biases and norms, which have one dimension
    schedule: Literal["constant", "one-cycle", "cosine", "linear"] | Schedule = "one-cycle"  # one-cycle: up in 30 %
    warmup: AtLeast0[int] = 0  # steps of linear warm-up before a constant, cosine or linear schedule
    grad_clip: Positive[float] | None = None  # maximum norm of the gradient
    ema: BelowOne | None = None  # decay a step of an average of the weights, which is validated and saved
    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # bf16: autocast, weights and losses stay fp32; auto: if faster
    checkpointing: bool = False  # activations of stages are computed again, not kept: less memory, more time
    shard: bool = False  # FSDP: the weights of stages, and their optimiser state, shared out among the processes
    compile: bool = False  # torch.compile the step
    seed: int = 0  # of the weights, the order of the images, and all noise
    evaluate_every: Positive[int] | None = None  # steps between validations (default: an epoch's)
    log_every: Positive[int] = 50  # steps between logged values
    threads: Positive[int] | None = None  # of the process, on a CPU (default: PyTorch's, one a core)
    device: str = "auto"  # auto: the first available of cuda, mps and cpu
    deterministic: bool = False  # deterministic algorithms only; those of a CPU always are

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", _device_name(self.device))
        super().__post_init__()
        unread = {"sgd": ("betas",), "adam": ("momentum", "nesterov"), "adamw": ("momentum", "nesterov")}
        kind = self.optimizer if isinstance(self.optimizer, str) else "an optimizer of your own"
        names = unread.get(str(self.optimizer), ("betas", "momentum", "nesterov", "weight_decay", "decays"))
        check_unread(self, names, f"by {kind}: leave it out, or choose another Recipe.optimizer")
        if self.schedule not in ("constant", "cosine", "linear"):
            own = "a schedule of your own" if callable(self.schedule) else self.schedule
            check_unread(self, ["warmup"], f"by {own}: leave it out, or choose another Recipe.schedule")
        if not self.weight_decay:
            check_unread(self, ["decays"], "without a weight decay: give Recipe.weight_decay")
        if isinstance(self.micro_batch, int) and self.micro_batch > self.batch_size:
            limit = f"Recipe.batch_size, {self.batch_size}"
            raise InputError(f"Recipe.micro_batch must be at most {limit}, got {self.micro_batch}")
        if self.shard and self.compile:
            raise InputError("Recipe.shard and Recipe.compile don't go together: leave one out")
        if self.nesterov and not self.momentum:
            raise InputError("Recipe.nesterov needs a Recipe.momentum above 0")

    def may_change(self, name: str) -> bool:
        """Whether a resumed run may have another value of a field: only if it does not affect the result."""
        if name in ("epochs", "steps"):
            return self.schedule == "constant"
        fields = "evaluate_every log_every threads device checkpointing shard compile deterministic"
        return name in fields.split()

    def leaves_open(self, name: str) -> bool:
        """Whether a field is chosen when the training starts; a resumed run keeps the choice."""
        return name in ("precision", "micro_batch") and getattr(self, name) == "auto"

    def check_warmup(self, total_steps: int) -> None:
        """Raise InputError if a training of this length ends before the learning rate reaches lr."""
        if self.warmup >= total_steps:
            raise InputError(f"Recipe.warmup must be less than the {total_steps} steps, got {self.warmup}")

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0; a pure function, so that resuming needs no state.

        one-cycle  cosine from lr/25 to lr over the first 30 % of the steps, then cosine to lr/250,000; constant
                   momentum (Smith & Topin 2018, in PyTorch's form)
        cosine     from lr to 0 (Loshchilov & Hutter 2017, equation 5, without restarts)
        linear     from lr to 0
        warmup     first a linear increase from lr/warmup to lr; the decay is over the steps that are left
        function   returns a factor of lr; raises InputError for a factor that is no number of 0 or more
        """
        if callable(self.schedule):
            name = f"the factor that Recipe.schedule gives at step {step} of {total_steps}"
            return self.lr * checked(self.schedule(step, total_steps), AtLeast0[float], name)
        if self.schedule == "one-cycle":
            return self._one_cycle(step, total_steps)
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        fraction = (step - self.warmup) / (total_steps - self.warmup)
        if self.schedule == "cosine":
            return _cosine(self.lr, 0.0, fraction)
        return self.lr * (1 - fraction) if self.schedule == "linear" else self.lr

    def _one_cycle(self, step: int, total_steps: int) -> float:
        low, high, last = self.lr / 25, self.lr, self.lr / 250_000
        peak = 0.3 * total_steps - 1
        if step <= peak:
            return _cosine(low, high, step / peak)
        return _cosine(high, last, (step - peak) / (total_steps - 1 - peak))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimiser; the loop sets its learning rate at each step.

        Raises InputError for a factory that does not return an optimiser, and for an optimiser that needs a closure,
        leaves parameters out, or has a learning rate other than the recipe's.
        """
        if callable(self.optimizer):
            return self._from_factory(self.optimizer, parameters)
        groups: list[Any] = parameters
        if self.decays == "weights":
            matrices = [parameter for parameter in parameters if parameter.ndim > 1]
            others = [parameter for parameter in parameters if parameter.ndim <= 1]
            groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": not self.shard}
        # ^ fused kernels take no mixture of sharded and whole weights
        if self.optimizer == "adam":
            return torch.optim.Adam(groups, betas=self.betas, **options)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, betas=self.betas, **options)
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, **options)

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
        optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        left_out = sum(id(parameter) not in optimized for parameter in parameters)
        if left_out:
            remedy = "freeze those with requires_grad_(False)"
            raise InputError(f"Recipe.optimizer leaves out {left_out} of {len(parameters)} parameters: {remedy}")
        parameter = inspect.signature(type(optimizer)).parameters.get("lr")
        lr = optimizer.defaults.get("lr")
        if parameter is not None and lr is not None and float(lr) != self.lr and lr != parameter.default:
            raise InputError(f"Recipe.optimizer sets a learning rate of {float(lr):g}: give it as Recipe.lr")
        return optimizer

    def find_device(self) -> torch.device:
        """Return the device to train on; raises InputError for a device that is not available."""
        if self.device != "auto":
            try:
                device = torch.zeros(1, device=self.device).device
            except (RuntimeError, AssertionError, ImportError) as error:
                raise InputError(f"Recipe.device: no device {self.device}: {first_line(error)}") from error
            if device.type == "meta":
                raise InputError("Recipe.device must be one that computes: meta has no values")
            return device
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device_name(device: Any) -> Any:
    """Convert a `torch.device` to text; return anything else unchanged."""
    return str(device) if isinstance(device, torch.device) else device


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
