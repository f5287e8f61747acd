"""Collectives of training in several processes, each on a device of its own.

`torchrun`, or another launcher, starts the processes; `ae.utils.launch` makes a process group of them. Every batch is
global: each process takes its shard, and means are over the global batch. N processes therefore train as a single
process does, up to the order of floating-point sums. For the parts of an objective:

- Means by `ae.functional.masked_mean`, and the statistics of batch norm of any kind, are over the global batch.
- Other buffers that a module updates in training are those of the main process, from its shard; a line reports them.
- Noise is drawn by each process for its own shard: the distribution is that of one process, the numbers differ.
- Any other coupling of a batch's examples (a contrastive term, say) is within the shard of each process.

The shard of a small batch may be empty: its process takes part in every step nevertheless, since all processes wait for
each other. With one process, every function here does nothing.
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

_AGREE_EVERY = 10  # steps between two collectives of `agree`
_mean_shard: float | None = None  # size of the global batch / number of processes, inside `global_batch`
_replicas: WeakSet[DistributedDataParallel] = WeakSet()
_reported: set[str] = set()  # buffers reported to differ between processes


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def machine() -> tuple[str, str]:
    """Return an identifier of this machine within the group."""
    return os.environ.get("GROUP_RANK", ""), socket.gethostname()


def local_rank() -> int:
    """Return the rank of this process on its machine, from 0; a collective."""
    return all_gather(machine())[: rank()].count(machine())


def is_main() -> bool:
    """Whether this process writes and logs: rank 0."""
    return rank() == 0


def on_main(method: Function) -> Function:
    """Run a method in the main process only; in other processes the method returns None."""

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs) if is_main() else None

    return run  # type: ignore[return-value]


def shard(x: Tensor, dim: int = 0) -> Tensor:
    """Return this process's shard of x [b ...]; sizes of shards differ by 1 at most, the first are the larger."""
    return x if world_size() == 1 else x.tensor_split(world_size(), dim)[rank()]


def rank_key(*key: str | int) -> tuple[str | int, ...]:
    """Return the key of the noise for this process's shard; rank 0 has the key of a single process."""
    return key if is_main() else (*key, rank())


def all_gather(value: Value) -> list[Value]:
    """Gather the values of all processes, by rank, in every process; pickled, through the CPU."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], Value]) -> Value:
    """Call `make` in the main process; return its result, or raise its error, in every process."""
    if world_size() == 1:
        return make()
    outcome = all_gather(attempt(make) if is_main() else None)[0]
    assert outcome is not None
    return outcome.result()


class Attempt:
    """Result of a call, or the exception that it raised."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def result(self) -> Any:
        """Return the result, or raise the exception."""
        if self._error is not None:
            raise self._error
        return self._value


def attempt(make: Callable[[], Any]) -> Attempt:
    """Call `make`, and keep its result or its exception."""
    try:
        return Attempt(make())
    except Exception as error:
        return Attempt(error=error)


def agree(wanted: bool, step: int) -> bool:
    """Whether `wanted` is true in any process; with several processes, false but at every 10th step."""
    if world_size() == 1:
        return wanted
    return step % _AGREE_EVERY == 0 and any(all_gather(wanted))


@contextmanager
def global_batch(images: int) -> Iterator[None]:
    """Take means and batch norm over the global batch of `images` images, of which this process has a shard."""
    global _mean_shard
    if world_size() == 1:
        yield
        return
    _mean_shard = images / world_size()
    try:
        with synced_norm():
            yield
    finally:
        _mean_shard = None


def global_count(count: int) -> int:
    """Return the size of the global batch, of which this process's shard has `count` images."""
    return count if _mean_shard is None else round(_mean_shard * world_size())


def mean_count(count: Tensor | int) -> Tensor | float:
    """Return the global count divided by the number of processes; for an int, the global batch size divided likewise.

    The sum over a shard divided by this count, averaged over processes as gradients are, is the mean over the batch.
    """
    if _mean_shard is None:
        return count
    if not isinstance(count, Tensor):
        return _mean_shard
    counts = count.float()
    dist.all_reduce(counts)
    return counts / world_size()


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap a module in DistributedDataParallel, which averages gradients over the processes; one process needs none.

    Raises InputError for lazy parameters without a size, and for batch norm in TorchScript.
    """
    if world_size() == 1:
        return module
    for name, part in module.named_modules():
        label = f"{name.removeprefix('model.') or 'the model'} ({type(part).__name__})"
        if any(nn.parameter.is_lazy(tensor) for tensor in (*part.parameters(False), *part.buffers(False))):
            raise InputError(
                f"{label} has no size before its first batch: give it one, then train in several processes"
            )
        if isinstance(part, torch.jit.ScriptModule) and hasattr(part, "running_mean"):
            raise InputError(f"{label} is TorchScript, whose batch norm can't be synchronised: give the Python module")
    device = next(module.parameters()).device
    parallel = DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # an objective may not use every parameter
    )
    _replicas.add(parallel)
    return parallel


def release() -> None:
    """Drop the references of DistributedDataParallel modules to the process group."""
    for parallel in list(_replicas):
        vars(parallel).clear()


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Broadcast the main process's buffers; the main process reports once each buffer that differed."""
    if world_size() == 1:
        return
    differing = []
    for name, buffer in module.named_buffers():
        main_buffer = buffer.clone()
        dist.broadcast(main_buffer, src=0)
        if not torch.allclose(buffer.double(), main_buffer.double(), rtol=1e-4, atol=1e-6, equal_nan=True):
            differing.append(name)
        buffer.copy_(main_buffer)
    for name in {name for names in all_gather(differing) for name in names} - _reported:
        _reported.add(name)
        if is_main():
            label = name.removeprefix("model.")
            say(f"{label} differs between processes: each updates it by its shard; rank 0's is kept", error=True)


@torch.no_grad()
def all_sum(x: Tensor) -> Tensor:
    """Sum over the processes inside `global_batch`; without gradients."""
    if _mean_shard is None:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def all_mean(x: Tensor) -> Tensor:
    """Average over the processes inside `global_batch`; without gradients."""
    return all_sum(x) / (1 if _mean_shard is None else world_size())


@torch.no_grad()
def variance(x: Tensor) -> Tensor:
    """x [b ...] -> variance [...] over the images of the global batch; without gradients."""
    count, x = max(global_count(len(x)), 1), x.float()
    mean = all_sum(x.sum(0)) / count
    return all_sum((x - mean).square().sum(0)) / count


@torch.no_grad()
def broadcast(x: Tensor) -> Tensor:
    """Broadcast rank 0's values inside `global_batch`; without gradients."""
    if _mean_shard is None:
        return x
    x = x.contiguous().clone()
    dist.broadcast(x, src=0)
    return x
