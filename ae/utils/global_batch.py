"""The global batch of a step, divided into shards for the processes, and each shard into parts.

A process may train on its shard in parts (`Recipe.micro_batch`), each of which counts as a shard of a further process:
means are over the global batch, and statistics of batch norm, which is a coupling, over a part in all processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ae.utils import distributed
from ae.utils.sync_batch_norm import synced_norm


@dataclass(frozen=True)
class _GlobalBatch:
    """The global batch, divided into shards for the processes, and each shard into parts."""

    images: int  # in the batch
    part: int  # number of the part in use
    parts: int

    @property
    def mean_size(self) -> float:
        """Mean number of images in a part of a shard."""
        return self.images / (distributed.world_size() * self.parts)

    @property
    def part_images(self) -> int:
        """Number of images in this part of all shards."""
        shards = [_split_size(self.images, distributed.world_size(), rank) for rank in range(distributed.world_size())]
        return sum(_split_size(shard, self.parts, self.part) for shard in shards)


_batch: _GlobalBatch | None = None  # inside `global_batch`, if the batch is divided


def _split_size(count: int, parts: int, part: int) -> int:
    """Return the size of a part of `tensor_split`."""
    return count // parts + (part < count % parts)


@contextmanager
def global_batch(images: int, part: int = 0, parts: int = 1) -> Iterator[None]:
    """Take means over the global batch of `images` images, of which this process has a shard, or a part of one.

    Batch norm is over this part of all shards.
    """
    global _batch
    if distributed.world_size() == parts == 1:
        yield
        return
    _batch = _GlobalBatch(images, part, parts)
    try:
        with synced_norm() if distributed.world_size() > 1 else nullcontext():
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
    return _batch is not None and distributed.world_size() > 1


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
    if distributed.world_size() > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts / (distributed.world_size() * _batch.parts)


def smallest_mean_count() -> float:
    """Return the `mean_count` of a single example."""
    return 1.0 if _batch is None else 1 / (distributed.world_size() * _batch.parts)


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
    return all_sum(x) / (distributed.world_size() if _is_collective() else 1)


@torch.no_grad()
def mean(x: Tensor) -> Tensor:
    """x [b ...] -> mean [...] over the images of the global batch, 0 for none; without gradients."""
    return all_sum(x.float().sum(0)) / max(global_count(len(x)), 1)


@torch.no_grad()
def variance(x: Tensor) -> Tensor:
    """x [b ...] -> variance [...] over the images of the global batch, 0 for none; without gradients."""
    return mean((x - mean(x)).square())


@torch.no_grad()
def broadcast(x: Tensor) -> Tensor:
    """Broadcast rank 0's values inside `global_batch`; without gradients."""
    if not _is_collective():
        return x
    x = x.contiguous().clone()
    dist.broadcast(x, src=0)
    return x
