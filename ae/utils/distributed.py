"""Training in several processes, one a device: what is asked of the other processes.

`torchrun`, or another launcher, starts them; `ae.utils.launch` makes a group of them. Every batch is the whole group's:
each process takes its part of it, means are over all of it, and so N processes train as one does, up to the order in
which floating-point numbers are added. What that means for the pieces of an objective:

- means by `ae.functional.masked_mean` are over the whole batch, and so are the statistics of batch norm of any kind;
- other buffers that a module changes in training are the main process's, made from its part; a line says so;
- noise is drawn by each process for its own part: the same distribution as in one process, other numbers;
- what couples the examples of a batch in another way (a contrastive term, say) sees this process's part only.

A process's part of a small batch may be empty: it takes part in every step nevertheless, as all of them wait for each
other. With one process, every function here does nothing.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.sync_batch_norm import synced_norm

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

_AGREE_EVERY = 10  # steps between questions to the group
_batch: float | None = None  # images of the batch that is being trained on, over the number of processes
_wrapped: WeakSet[DistributedDataParallel] = WeakSet()
_apart: set[str] = set()  # buffers of which it has been said that they differ between processes


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def machine() -> tuple[str, str]:
    """Identifier of this machine within the group."""
    return os.environ.get("GROUP_RANK", ""), socket.gethostname()


def local_rank() -> int:
    """Which of the processes of this machine this is, from 0; all processes ask together."""
    return gathered(machine())[: rank()].count(machine())


def is_main() -> bool:
    """Whether this is the process that writes and logs."""
    return rank() == 0


def on_main(method: Function) -> Function:
    """A method that does nothing, and gives None, in other processes than the main one."""

    @wraps(method)
    def only_there(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs) if is_main() else None

    return only_there  # type: ignore[return-value]


def shard(whole: Tensor, dim: int = 0) -> Tensor:
    """This process's part of what belongs to the images of a batch; the first parts are the larger ones, by one."""
    return whole if world_size() == 1 else whole.tensor_split(world_size(), dim)[rank()]


def rank_key(*key: str | int) -> tuple[str | int, ...]:
    """The key of noise that this process draws for its part; the first process's is the one of a single process."""
    return key if is_main() else (*key, rank())


def gathered(value: Value) -> list[Value]:
    """Gather the values of all processes, by rank, in every process; on the CPU."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], Value]) -> Value:
    """Call `make` in the main process, and return its result, or raise its error, in every process."""
    if world_size() == 1:
        return make()
    made = gathered(attempt(make) if is_main() else None)[0]
    assert made is not None
    return made.result()


class Attempt:
    """A result, or the error that came instead of it."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def result(self) -> Any:
        """The result; raises the error."""
        if self._error is not None:
            raise self._error
        return self._value


def attempt(make: Callable[[], Any]) -> Attempt:
    """Call `make`, and keep its result or its error."""
    try:
        return Attempt(make())
    except Exception as error:
        return Attempt(error=error)


def agree(wanted: bool, step: int) -> bool:
    """Whether a process wants something, the same answer in all of them; with several, asked every few steps only."""
    if world_size() == 1:
        return wanted
    return step % _AGREE_EVERY == 0 and any(gathered(wanted))


@contextmanager
def global_batch(images: int) -> Iterator[None]:
    """Inside, means and batch norm are over a batch of so many images, of which this process has a part."""
    global _batch
    if world_size() == 1:
        yield
        return
    _batch = images / world_size()
    try:
        with synced_norm():
            yield
    finally:
        _batch = None


def whole(count: int) -> int:
    """How many images the batch has, of which this process's part has so many."""
    return count if _batch is None else round(_batch * world_size())


def mean_count(count: Tensor | int) -> Tensor | float:
    """Count over the whole batch, divided by the number of processes; of an int, the batch size, divided by it.

    A sum over the part divided by it, and averaged over the processes as gradients are, is the mean over the batch.
    """
    if _batch is None:
        return count
    if not isinstance(count, Tensor):
        return _batch
    counts = count.float()
    dist.all_reduce(counts)
    return counts / world_size()


def wrapped(module: nn.Module) -> nn.Module:
    """The module, in several processes as one of which the gradients are averaged over them at each step.

    Raises InputError for what can't be trained in several: parameters without a size yet, batch norm in TorchScript.
    """
    if world_size() == 1:
        return module
    for name, part in module.named_modules():
        called = f"{name.removeprefix('model.') or 'the model'} ({type(part).__name__})"
        if any(nn.parameter.is_lazy(tensor) for tensor in (*part.parameters(False), *part.buffers(False))):
            raise InputError(
                f"{called} has no size before its first batch: give it one, then train in several processes"
            )
        if isinstance(part, torch.jit.ScriptModule) and hasattr(part, "running_mean"):
            raise InputError(f"{called} is TorchScript, whose batch norm can't be synchronised: give the Python module")
    device = next(module.parameters()).device
    parallel = DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # an objective may leave parts of a model out
    )
    _wrapped.add(parallel)
    return parallel


def release() -> None:
    """Let go of the group, which wrapped modules keep for as long as somebody refers to them."""
    for parallel in list(_wrapped):
        vars(parallel).clear()


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give all processes the main one's buffers; the main one says once of each that they had come apart."""
    if world_size() == 1:
        return
    apart = []
    for name, buffer in module.named_buffers():
        of_main = buffer.clone()
        dist.broadcast(of_main, src=0)
        if not torch.allclose(buffer.double(), of_main.double(), rtol=1e-4, atol=1e-6, equal_nan=True):
            apart.append(name)
        buffer.copy_(of_main)
    for name in {name for names in gathered(apart) for name in names} - _apart:
        _apart.add(name)
        if is_main():
            what = f"{name.removeprefix('model.')} differs between processes"
            say(f"{what}: each changes it by its part of a batch; the main one's is kept", error=True)


@torch.no_grad()
def summed(x: Tensor) -> Tensor:
    """The sum over the processes while they train together; without gradients."""
    if _batch is None:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def averaged(x: Tensor) -> Tensor:
    """The mean over the processes while they train together; without gradients."""
    return summed(x) / (1 if _batch is None else world_size())


@torch.no_grad()
def variance(x: Tensor) -> Tensor:
    """x [b ...] -> the variance of each of its numbers over the images of the batch; without gradients."""
    count, x = max(whole(len(x)), 1), x.float()
    mean = summed(x.sum(0)) / count
    return summed((x - mean).square().sum(0)) / count


@torch.no_grad()
def from_first(x: Tensor) -> Tensor:
    """The first process's values, in all of them, while they train together."""
    if _batch is None:
        return x
    x = x.contiguous().clone()
    dist.broadcast(x, src=0)
    return x
