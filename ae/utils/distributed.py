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

A process may train on its shard in parts (`Recipe.accumulate`), each of which counts as a shard of a further process:
means are over the global batch, and statistics of batch norm, which is a coupling, over a part in all processes.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.sync_batch_norm import synced_norm

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

_AGREE_EVERY = 10  # steps between two collectives of `agree`
_reported: set[str] = set()  # buffers reported to differ between processes


@dataclass(frozen=True)
class _GlobalBatch:
    """The global batch, divided into shards for the processes, and each shard into parts."""

    images: int  # in the batch
    part: int  # number of the part in use
    parts: int

    @property
    def mean_size(self) -> float:
        """Mean number of images in a part of a shard."""
        return self.images / (world_size() * self.parts)

    @property
    def part_images(self) -> int:
        """Number of images in this part of all shards."""
        shards = [_split_size(self.images, world_size(), rank) for rank in range(world_size())]
        return sum(_split_size(shard, self.parts, self.part) for shard in shards)


_batch: _GlobalBatch | None = None  # inside `global_batch`, if the batch is divided


def _split_size(count: int, parts: int, part: int) -> int:
    """Return the size of a part of `tensor_split`."""
    return count // parts + (part < count % parts)


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
def global_batch(images: int, part: int = 0, parts: int = 1) -> Iterator[None]:
    """Take means over the global batch of `images` images, of which this process has a shard, or a part of one.

    Batch norm is over this part of all shards.
    """
    global _batch
    if world_size() == parts == 1:
        yield
        return
    _batch = _GlobalBatch(images, part, parts)
    try:
        with synced_norm() if world_size() > 1 else nullcontext():
            yield
    finally:
        _batch = None


def is_divided() -> bool:
    """Whether the batch in use is a shard, or a part of one, of the batch that means are over."""
    return _batch is not None


def is_in_parts() -> bool:
    """Whether the batch in use is a part of this process's shard."""
    return _batch is not None and _batch.parts > 1


def is_first_part() -> bool:
    """Whether the batch in use is the first part of this process's shard, or the whole."""
    return _batch is None or _batch.part == 0


def is_last_part() -> bool:
    """Whether the batch in use is the last part of this process's shard, or the whole."""
    return _batch is None or _batch.part == _batch.parts - 1


def _is_collective() -> bool:
    """Whether sums are over several processes."""
    return _batch is not None and world_size() > 1


def global_count(count: int) -> int:
    """Return the number of images in all processes, of which this process's batch has `count`."""
    return count if _batch is None else _batch.part_images


def mean_count(count: Tensor | int) -> Tensor | float:
    """Return the global count over the number of shards and parts; for an int, the global batch's size likewise.

    `count` is of all parts of this process's shard. The sum over a part divided by the result, averaged over parts and
    processes as gradients are, is the mean over the global batch.
    """
    if _batch is None:
        return count
    if not isinstance(count, Tensor):
        return _batch.mean_size
    counts = count.float()
    if world_size() > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts / (world_size() * _batch.parts)


def smallest_mean_count() -> float:
    """Return the `mean_count` of a single example."""
    return 1.0 if _batch is None else 1 / (world_size() * _batch.parts)


@torch.no_grad()
def replicate(module: nn.Module) -> None:
    """Copy the main process's weights to all processes; raises InputError for a module that can't be synchronised."""
    if world_size() == 1:
        return
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule) and hasattr(part, "running_mean"):
            label = f"{name.removeprefix('model.') or 'the model'} ({type(part).__name__})"
            raise InputError(f"{label} is TorchScript, whose batch norm can't be synchronised: give the Python module")
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = all_gather({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if any(other != shapes[0] for other in shapes):
        raise InputError("the processes have different models: build the same one in each")
    for tensor in tensors.values():
        dist.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average gradients over the processes, all in one collective for each dtype.

    A parameter without a gradient in one process has a gradient of 0 there; without one in any process, it keeps none.
    """
    if world_size() == 1 or not parameters:
        return
    has_gradient = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    dist.all_reduce(has_gradient)
    by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for parameter, count in zip(parameters, has_gradient.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            by_dtype[parameter.dtype].append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        means = (flat / world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))


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
    if not _is_collective():
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def all_mean(x: Tensor) -> Tensor:
    """Average over the processes inside `global_batch`; without gradients."""
    return all_sum(x) / (world_size() if _is_collective() else 1)


@torch.no_grad()
def variance(x: Tensor) -> Tensor:
    """x [b ...] -> variance [...] over the images of the global batch; without gradients."""
    count, x = max(global_count(len(x)), 1), x.float()
    mean = all_sum(x.sum(0)) / count
    return all_sum((x - mean).square().sum(0)) / count


@torch.no_grad()
def broadcast(x: Tensor) -> Tensor:
    """Broadcast rank 0's values inside `global_batch`; without gradients."""
    if not _is_collective():
        return x
    x = x.contiguous().clone()
    dist.broadcast(x, src=0)
    return x
