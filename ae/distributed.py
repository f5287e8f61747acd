"""Training in several processes, one a device: the one module that knows of them. `torchrun` starts them.

Every batch is the whole group's: each process takes its part of it, means are over all of it, and so N processes train
as one does, up to the order in which floating-point numbers are added. What that means for the pieces of an objective:

- means by `ae.losses.masked_mean` are over the whole batch, and so are batch norm's statistics;
- noise is drawn by each process for its own part: the same distribution as in one process, other numbers;
- what couples the examples of a batch in another way (a contrastive term, say) sees this process's part only.

With one process, every function here does nothing.
"""

import io
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

_AGREE_EVERY = 10  # steps between questions to the group
_batch: float | None = None  # images of the batch that is being trained on, over the number of processes


@contextmanager
def launched() -> Iterator[None]:
    """Inside, the processes that `torchrun` has started are a group."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and logs."""
    return rank() == 0


def on_main(method: Function) -> Function:
    """A method that does nothing, and gives None, in other processes than the main one."""

    @wraps(method)
    def only_there(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs) if is_main() else None

    return only_there  # type: ignore[return-value]


def part(whole: Tensor, dim: int = 0) -> Tensor:
    """This process's part of what belongs to the images of a batch; the first parts are the larger ones, by one."""
    return whole if world() == 1 else whole.tensor_split(world(), dim)[rank()]


def own(*key: str | int) -> tuple[str | int, ...]:
    """The key of noise that this process draws for its part; the first process's is the one of a single process."""
    return key if is_main() else (*key, rank())


def gathered(value: Value) -> list[Value]:
    """What every process gives, by rank, in every process; on the CPU."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], Value]) -> Value:
    """What `make` gives in the main process, or raises there, in every process."""
    if world() == 1:
        return make()
    attempt = gathered(_attempt(make) if is_main() else None)[0]
    assert attempt is not None
    return attempt.result()


def agree(wanted: bool, step: int) -> bool:
    """Whether a process wants something, the same answer in all of them; with several, asked every few steps only."""
    if world() == 1:
        return wanted
    return step % _AGREE_EVERY == 0 and any(gathered(wanted))


@contextmanager
def one_batch(images: int) -> Iterator[None]:
    """Inside, means are over a batch of so many images, of which this process has a part."""
    global _batch
    _batch = images / world() if world() > 1 else None
    try:
        yield
    finally:
        _batch = None


def mean_count(count: Tensor | int) -> Tensor | float:
    """So many of this process's part of the batch -> the mean over the processes; of an int, the whole part's.

    A sum over the part divided by it, and averaged over the processes as gradients are, is the mean over the batch.
    """
    if _batch is None:
        return count
    if not isinstance(count, Tensor):
        return _batch
    counts = count.float()
    dist.all_reduce(counts)
    return counts / world()


def wrapped(module: nn.Module) -> nn.Module:
    """The module, in several processes as one of which the gradients are averaged over them at each step."""
    if world() == 1:
        return module
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SyncedBatchNorm2d
    device = next(module.parameters()).device
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,  # statistics are the same everywhere
        find_unused_parameters=True,  # an objective may leave parts of a model out
    )


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch; PyTorch's own does that on CUDA alone."""

    def forward(self, x: Tensor) -> Tensor:
        """x [b c h w] -> the same, normalised; in evaluation mode as ever."""
        if not self.training or world() == 1:
            return super().forward(x)
        count = _summed(x.new_full((1,), x.numel() / x.shape[1]))
        mean = _summed(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
        if not self.affine:
            return normalised
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


@torch.no_grad()
def summed(x: Tensor) -> Tensor:
    """The sum over the processes while they train together; without gradients."""
    if _batch is None:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


@torch.no_grad()
def from_first(x: Tensor) -> Tensor:
    """The first process's values, in all of them, while they train together."""
    if _batch is None:
        return x
    x = x.contiguous().clone()
    dist.broadcast(x, src=0)
    return x


def _summed(x: Tensor) -> Tensor:
    """The sum over the processes; gradients pass through it to all of them."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


def once_a_machine(make: Callable[[], Value]) -> Value:
    """What `make` gives, made by one process of each machine; its tensors are in memory once, for all of them.

    Raises in every process what `make` raises in one.
    """
    if world() == 1:
        return make()
    leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
    machine = os.environ.get("GROUP_RANK", "0")
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        made = _attempt(lambda: _stored(make(), Path(folder))) if leads else None
        (found,) = [made for place, made in gathered((machine, made)) if place == machine and made is not None]
        value = _opened(found.result())
        gathered(None)  # all have opened the files: their names may go
    return value


class _Attempt:
    """A result, or the error that came instead of it."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


def _attempt(make: Callable[[], Any]) -> _Attempt:
    try:
        return _Attempt(make())
    except Exception as error:
        return _Attempt(error=error)


def _memory_folder() -> Path | None:
    """A folder in memory, where the system has one; else that of temporary files."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else None


def _stored(value: Any, folder: Path) -> bytes:
    """The value without its tensors, which go to files in `folder`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            if not isinstance(thing, Tensor):
                return None
            path = folder / str(len(list(folder.iterdir())))
            path.touch()
            if thing.numel():
                _mapped(path, thing.dtype, thing.shape).copy_(thing)
            return str(path), thing.dtype, tuple(thing.shape)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _opened(content: bytes) -> Any:
    """The value of which `_stored` made this, with tensors that are the files' memory."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Tensor:
            path, dtype, shape = place
            return _mapped(Path(path), dtype, shape)

    return Unpickler(io.BytesIO(content)).load()


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
