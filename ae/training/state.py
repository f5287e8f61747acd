"""State of a training: save and restore, deferred signals, and divergence."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ae.models.wrappers import plain_state, with_names_of
from ae.runs.run import Run
from ae.training.meter import Meter
from ae.training.precision import Precision
from ae.utils import distributed
from ae.utils.errors import DivergedError, InputError, one_line


@dataclass
class TrainState:
    """Progress of a training; a resume needs this, the weights and the states of optimisers and meter."""

    precision: Precision
    step: int = 0
    images: int = 0  # seen in training
    seconds: float = 0.0  # of training, validation included
    validation_seconds: float = 0.0  # of validation
    best: float = math.inf  # lowest validation loss
    validation: dict[str, float] = field(default_factory=dict)  # metrics of the last validation
    data: dict[str, Any] | None = None  # state of data that are read in sequence
    micro_batch: int | None = None  # images at a time in a process; None: all


def state_of(at: TrainState, trained: nn.Module, optimizers: Mapping[str, Optimizer], meter: Meter) -> dict[str, Any]:
    """Return the state that `restore_weights` and `restore` load; a collective for sharded weights."""
    state = {
        "position": asdict(at),
        "trained": plain_state(trained),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "meter": meter.state(),
    }
    return dict(distributed.whole(state))


def restore_weights(run: Run | None, trained: nn.Module) -> dict[str, Any] | None:
    """Load the weights of the run's state, and return the state; None for a new run.

    A fork loads the weights of `trained.model`, in the main process. Raises InputError if the weights do not fit.
    """
    state = run.load_state() if run else None
    if run and state is None:
        run.load_fork(trained.get_submodule("model"))
    if run and state is not None:
        with _fitting(run):
            trained.load_state_dict(with_names_of(trained, state["trained"]))
    return state


def restore(
    run: Run | None,
    state: dict[str, Any] | None,
    trained: nn.Module,
    optimizers: Mapping[str, Optimizer],
    meter: Meter,
    total_steps: int,
    new: TrainState,
    before: Precision,
) -> TrainState:
    """Load the states of optimisers and meter, and return the progress; a new run saves its first state.

    `state` is that of `restore_weights`; `new` is the progress of a new training; `before` is the precision of a state
    of version 0.1, which does not say its own. Raises InputError if the state does not fit the optimisers.
    """
    if run is None or state is None:
        if run:
            run.save_state(state_of(new, trained, optimizers, meter))
        return new
    with _fitting(run):
        saved = state["optimizers"] if "optimizers" in state else {"optimizer": state["optimizer"]}  # before 0.1.0
        if optimizers.keys() != saved.keys():
            raise ValueError(f"it has optimisers for {', '.join(saved)}")
        for name, optimizer in optimizers.items():
            _restore_optimizer(optimizer, saved[name])
        meter.restore(state["meter"])
        position = {"precision": before, "micro_batch": new.micro_batch, **state["position"]}
        if position["precision"] not in get_args(Precision):
            raise ValueError(f"its precision is {position['precision']!r:.20}")
        at = TrainState(**position)
    if at.step > total_steps:
        raise InputError(f"{run.folder} has been trained for {at.step} steps, more than the {total_steps} asked for")
    run.rewind(at.step)
    return at


@contextmanager
def _fitting(run: Run) -> Iterator[None]:
    """Raise InputError for an error of the block, which loads a run's state into modules and optimisers."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = f"{one_line(error):.300}"
        raise InputError(f"the state of {run.folder} does not fit this model and recipe: {reason}") from error


def _restore_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the optimiser's buffers, such as momenta; its hyperparameters stay those of the recipe."""
    groups = optimizer.state_dict()["param_groups"]
    if [group.keys() for group in groups] != [group.keys() for group in saved["param_groups"]]:
        raise ValueError(f"it was trained with another optimiser than {type(optimizer).__name__}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or not value.ndim:
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"its {name} is {list(value.shape)} for a parameter that is {list(parameter.shape)}")
            if distributed.is_sharded(parameter):
                values[name] = distributed.sharded_like(value, parameter)
            else:  # fused kernels read all tensors in the order of the parameter's memory
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@contextmanager
def safely(run: Run | None, deterministic: bool) -> Iterator[None]:
    """Defer signals to the next saved state; if `deterministic`, use deterministic algorithms only."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
    try:
        with nullcontext() if run is None else run.deferring_signals():
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def is_finite(trained: nn.Module) -> bool:
    """Whether all weights are finite; a collective."""
    tensors = [distributed.own(tensor) for tensor in trained.state_dict().values() if tensor.is_floating_point()]
    return all(distributed.all_gather(bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())))


def diverged(name: str, step: int, lr: float, run: Run | None) -> DivergedError:
    """Return the error for a value that became NaN or infinite, with its step and learning rate."""
    hint = f"; the last good weights are in {run.folder / 'state.pt'}" if run else ""
    return DivergedError(f"{name} became NaN or infinite at step {step}, learning rate {lr:.3g}{hint}")
