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
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ae.utils.console import say
from ae.utils.errors import InputError

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

_AGREE_EVERY = 10  # steps between two collectives of `agree`
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
    The gradients of sharded parameters are averaged in the backward pass.
    """
    if world_size() == 1:
        return
    parameters = [parameter for parameter in parameters if not is_sharded(parameter)]
    if not parameters:
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


def runs_for_main(model: nn.Module) -> bool:
    """Whether this process runs the model for what the main process writes: the main one; of a sharded model, every."""
    return is_main() or any(map(is_sharded, model.parameters()))


def is_sharded(value: Any) -> bool:
    """Whether a value is a tensor of which each process holds a shard, a `DTensor`."""
    return hasattr(value, "full_tensor")


def own(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor; any other tensor is returned unchanged."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(value: Any) -> Any:
    """Gather each sharded tensor in a value, nested in dicts and lists, on the CPU; a collective."""
    if world_size() == 1:
        return value
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return value.full_tensor().cpu() if is_sharded(value) else value


def sharded_like(value: Tensor, like: Any) -> Tensor:
    """Shard a tensor, whole in every process, as the sharded tensor `like` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all values of tensors, sharded or whole in every process; a collective for sharded ones."""
    shards = [] if world_size() == 1 else [own(tensor) for tensor in tensors if is_sharded(tensor)]
    if not shards:
        return nn.utils.get_total_norm(tensors)
    norm = nn.utils.get_total_norm([tensor for tensor in tensors if not is_sharded(tensor)])
    square = nn.utils.get_total_norm(shards).square()
    dist.all_reduce(square)
    return (norm.square().to(square.device) + square).sqrt()


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
