"""Where a training stands: what is saved of it, how it goes on from there, and when it may not."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ae.models.wrappers import plain_state, with_names_of
from ae.runs.run import Run
from ae.training.meter import Meter
from ae.utils.errors import DivergedError, InputError, one_line


@dataclass
class TrainState:
    """How far a run has come; with the weights and the optimisers, all that a resumed run needs to know."""

    step: int = 0
    images: int = 0  # trained on so far
    seconds: float = 0.0  # in training
    validation_seconds: float = 0.0  # of these, in validation
    best: float = math.inf  # lowest validation loss
    validation: dict[str, float] = field(default_factory=dict)  # the last one's metrics


def state_of(at: TrainState, trained: nn.Module, optimizers: Mapping[str, Optimizer], meter: Meter) -> dict[str, Any]:
    """State for `restore`."""
    return {
        "position": asdict(at),
        "trained": plain_state(trained),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "meter": meter.state(),
    }


def restore(
    run: Run | None, trained: nn.Module, optimizers: Mapping[str, Optimizer], meter: Meter, total_steps: int
) -> TrainState:
    """Continue from the run's state, or write its first one; `trained.model` is what a fork takes over."""
    if run is None:
        return TrainState()
    state = run.load_state()
    if state is None:
        run.load_fork(trained.get_submodule("model"))
        run.save_state(state_of(TrainState(), trained, optimizers, meter))
        return TrainState()
    try:
        trained.load_state_dict(with_names_of(trained, state["trained"]))
        saved = state["optimizers"] if "optimizers" in state else {"optimizer": state["optimizer"]}  # before 0.1.0
        if optimizers.keys() != saved.keys():
            raise ValueError(f"it has optimisers for {', '.join(saved)}")
        for name, optimizer in optimizers.items():
            _restore_optimizer(optimizer, saved[name])
        meter.restore(state["meter"])
        at = TrainState(**state["position"])
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError) as error:
        raise InputError(f"the state of {run.folder} does not fit this model and recipe: {one_line(error)}") from error
    if at.step > total_steps:
        raise InputError(f"{run.folder} has been trained for {at.step} steps, more than the {total_steps} asked for")
    run.rewind(at.step)
    return at


def _restore_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Take over what the optimiser has gathered, such as momenta; its hyper-parameters are the recipe's."""
    own = optimizer.state_dict()["param_groups"]
    if [group.keys() for group in own] != [group.keys() for group in saved["param_groups"]]:
        raise ValueError(f"it was trained with another optimiser than {type(optimizer).__name__}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"its {name} is {list(value.shape)} for a parameter that is {list(parameter.shape)}")


@contextmanager
def safely(run: Run | None, deterministic: bool) -> Iterator[None]:
    """Inside, signals wait for the state to be saved; if `deterministic`, only such algorithms run."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA asks for it
        torch.use_deterministic_algorithms(True)
    try:
        with nullcontext() if run is None else run.deferring_signals():
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def is_finite(trained: nn.Module) -> bool:
    """Whether no weight is NaN or infinite."""
    tensors = [tensor for tensor in trained.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def diverged(name: str, step: int, lr: float, run: Run | None) -> DivergedError:
    """The error that says what became NaN or infinite, and when."""
    kept = f"; the last good weights are in {run.folder / 'state.pt'}" if run else ""
    return DivergedError(f"{name} became NaN or infinite at step {step}, learning rate {lr:.3g}{kept}")
