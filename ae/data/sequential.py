"""Data sets that are read in sequence, shard by shard, since they are larger than memory and disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ae.data.augment import Augment
from ae.data.batch import Batch
from ae.data.batches import Batches
from ae.data.images import Images
from ae.data.streamed import iterate_workers, worker_options
from ae.data.targets import Target
from ae.functional import LABEL
from ae.utils import distributed
from ae.utils.errors import InputError, one_line
from ae.utils.seeding import generator

Row = Any
State = dict[str, Any]


@runtime_checkable
class Shards(Protocol):
    """Protocol of rows in shards, each of which is read from its beginning, or from a state."""

    def __len__(self) -> int:
        """Number of shards."""
        ...

    def rows(self, shard: int, state: State | None = None) -> Iterator[tuple[Row, Any]]:
        """Iterate over the rows of a shard that follow a state, each with a function that gives the state after it."""
        ...

    def decode(self, rows: Sequence[Row], first: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode rows to pixels [b c h w] uint8 and targets by name; InputErrors name the place `first`."""
        ...

    def content(self, row: Row) -> bytes:
        """The bytes of a row's image."""
        ...

    def classes_of(self, target: str) -> tuple[str, ...]:
        """Names of the classes of a target beside the label; none of numbers."""
        ...


@dataclass(frozen=True)
class Position:
    """Start of a block of rows: its number in an epoch, the place of its shard in the epoch's order, and the state."""

    epoch: int
    block: int
    place: int = 0
    state: State | None = None


@dataclass(frozen=True)
class Sequential:
    """Training images that are read in sequence. Their labels are known only when they are read.

    In each epoch the shards are in a random order, and the rows of each block of `buffer` consecutive rows, so that a
    training resumes at the start of a block by the shard's own state, and exactly. Every process reads all rows, and
    decodes its share of each batch.

    count    number of rows that are not held out
    buffer   rows in memory that are shuffled together
    skipped  rows at the start of each shard that are held out
    read     targets beside the label, with the values of the first images
    """

    shards: Shards
    count: int
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    workers: int = 2
    buffer: int = 4096
    skipped: tuple[int, ...] = ()
    read: Mapping[str, Target] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return self.count

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """-1 for every image: the labels are not known."""
        return torch.full((1,), -1, device=self.device).expand(self.count)

    @property
    def targets(self) -> Mapping[str, Target]:
        """None that are known."""
        return {}

    def to(self, device: torch.device | str) -> "Sequential":
        """Put the batches on a device."""
        return replace(self, device=torch.device(device))

    def select(self, index: Int64[Tensor, " m"] | slice) -> Images:
        """Read the first images into memory, `slice(m)`; raises InputError for others."""
        if not isinstance(index, slice) or index.start or index.stop is None:
            raise InputError("of images that are read in sequence, only the first can be chosen: leave out Data.stream")
        return self.in_memory(row for row, _ in islice(self._in_order(), index.stop))

    def relabelled(self, labels: Any) -> "Sequential":
        """Not possible: raises InputError."""
        raise InputError("images that are read in sequence can't be labelled anew: leave out Data.stream")

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Batch:
        """Read the first images, as in `select`."""
        return self.select(index).to(self.device).batch(slice(None))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all images once, in the order of the shards."""
        rows = (row for row, _ in islice(self._in_order(), self.count))
        while part := list(islice(rows, batch_size)):
            yield self.decoded(part, "an image")

    def stream(self, indices: Iterable[Any]) -> Iterator[Batch]:
        """Not possible: raises InputError."""
        raise InputError("images that are read in sequence have no order to choose: leave out Data.stream")

    def decoded(self, rows: Sequence[Row], name: str) -> Batch:
        """Decode rows to a batch."""
        return _as_batch(*self.shards.decode(rows, name), self.device)

    def hold_out(self, count: int) -> tuple["Sequential", Images]:
        """Hold out the first `count` rows, and read them into memory."""
        if count >= self.count:
            raise InputError(f"can't hold out {count} of {self.count} images that are read in sequence")
        skipped, rows = list(self._skipped()), []
        for row, shard in islice(self._in_order(), count):
            rows.append(row)
            skipped[shard] += 1
        if len(rows) < count:
            raise InputError(f"a stream of {self.count} images ended after {len(rows)}: set Data.stream_images")
        return replace(self, count=self.count - count, skipped=tuple(skipped)), self.in_memory(rows)

    def held(self) -> Images:
        """Read all images into memory."""
        return self.in_memory(row for row, _ in self._in_order())

    def in_memory(self, rows: Iterable[Row]) -> Images:
        """Decode rows to images in memory."""
        rows = iter(rows)
        parts = []
        while part := list(islice(rows, 256)):
            parts.append(self.shards.decode(part, "an image that is held out"))
        if not parts:
            raise InputError("no images: the stream is empty")
        pixels = torch.cat([pixels for pixels, _ in parts])
        targets = {name: torch.cat([values[name] for _, values in parts]) for name in parts[0][1]}
        labels = targets.pop(LABEL)
        named = {name: Target(values, self.shards.classes_of(name)) for name, values in targets.items()}
        return Images(pixels, labels, self.classes, named)

    def with_first_targets(self, count: int = 1000) -> "Sequential":
        """Read the targets of the first `count` images."""
        return replace(self, read=self.in_memory(row for row, _ in islice(self._in_order(), count)).targets)

    def content(self, count: int) -> Iterator[bytes]:
        """The bytes of the first images."""
        for row, _ in islice(self._in_order(), count):
            yield self.shards.content(row)

    def _skipped(self) -> tuple[int, ...]:
        return self.skipped or (0,) * len(self.shards)

    def _in_order(self) -> Iterator[tuple[Row, int]]:
        """Rows that are not held out, with the numbers of their shards."""
        for shard, skipped in enumerate(self._skipped()):
            for row, _ in islice(self.shards.rows(shard), skipped, None):
                yield row, shard

    def blocks(self, seed: int, start: Position) -> Iterator[tuple[Position, list[Row]]]:
        """Iterate over the blocks of an epoch from a position on, each with its own position and in a random order."""
        order = torch.randperm(len(self.shards), generator=generator("shards", seed, start.epoch)).tolist()
        rows: list[Row] = []
        state = start.state
        for place in range(start.place, len(order)):
            shard = order[place]
            fresh = state is None
            read = self.shards.rows(shard, state)
            for row, state_after in islice(read, self._skipped()[shard] if fresh else 0, None):
                rows.append(row)
                if len(rows) == self.buffer:
                    yield start, _shuffled(rows, seed, start)
                    start, rows = Position(start.epoch, start.block + 1, place, state_after()), []
            state = None
        if rows:
            yield start, _shuffled(rows, seed, start)


def _shuffled(rows: list[Row], seed: int, start: Position) -> list[Row]:
    order = torch.randperm(len(rows), generator=generator("order", seed, start.epoch, start.block))
    return [rows[i] for i in order.tolist()]


def _as_batch(pixels: Tensor, targets: Mapping[str, Tensor], device: torch.device) -> Batch:
    moved = {name: values.to(device, non_blocking=True) for name, values in targets.items()}
    return Batch(pixels.to(device, non_blocking=True).float() / 255, moved)


class SequentialBatches(Batches):
    """Training batches of a `Sequential`: an epoch reads all rows, and ends after `len(data)` of them."""

    data: Sequential

    def __init__(self, data: Sequential, batch_size: int, seed: int, augment: Augment | None = None) -> None:
        super().__init__(data, batch_size, seed, augment)
        self._position: Position | None = None

    def state(self) -> dict[str, Any] | None:
        """Start of a block from which the batch after the last one can be read; None before the first."""
        return None if self._position is None else asdict(self._position)

    def _read(self, step: int, state: dict[str, Any] | None) -> Iterator[tuple[int, int, int, Batch]]:
        try:
            position = None if state is None else Position(**state)
        except TypeError as error:
            raise InputError(f"the saved state of the data can't be read: {one_line(error)}") from error
        shard = (distributed.rank(), distributed.world_size())
        reader = _Reader(self.data, self._shown_once_per_batch, self.seed, step, position, shard)
        for epoch, number, count, batch, self._position in reader.read():
            yield epoch, number, count, batch


class _Reader(IterableDataset[Any]):
    """Batches of a `Sequential` without end, from a step on; `shard` = (rank, world size) of the global batch."""

    def __init__(
        self, data: Sequential, batch_size: int, seed: int, step: int, position: Position | None, shard: tuple[int, int]
    ) -> None:
        self._data, self._size, self._seed, self._shard = data, batch_size, seed, shard
        self._epoch, self._number = divmod(step, -(-len(data) // batch_size))
        self._position = position if position is not None and position.epoch == self._epoch else None

    def read(self) -> Iterator[tuple[int, int, int, Batch, Position]]:
        """Iterate over (epoch, batch of the epoch, images of the global batch, shard of it, block to go on at)."""
        data = self._data
        loader: Any = DataLoader(self, batch_size=None, num_workers=data.workers, **worker_options(data.workers))
        for result in iterate_workers(loader) if data.workers else loader:
            if isinstance(result, str):
                raise InputError(result)
            epoch, number, count, pixels, targets, position = result
            yield epoch, number, count, _as_batch(pixels, targets, data.device), position

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of this worker, decoded, or an InputError's message."""
        worker = get_worker_info()
        which, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world_size = self._shard
        try:
            for i, (epoch, number, rows, position) in enumerate(self._batches()):
                if i % workers == which:
                    bounds = torch.arange(len(rows)).tensor_split(world_size)[rank]
                    share = [rows[j] for j in bounds.tolist()]
                    pixels, targets = self._data.shards.decode(share, f"an image of batch {number} of epoch {epoch}")
                    yield epoch, number, len(rows), pixels, targets, position
        except InputError as error:
            yield str(error)

    def _batches(self) -> Iterator[tuple[int, int, list[Row], Position]]:
        epoch, number = self._epoch, self._number
        start = self._position or Position(epoch, 0)
        while True:
            read = start.block * self._data.buffer
            blocks = self._data.blocks(self._seed, start)
            placed = chain.from_iterable(((row, position) for row in block) for position, block in blocks)
            rows = islice(placed, number * self._size - read, len(self._data) - read)
            seen = number * self._size
            while part := list(islice(rows, self._size)):
                seen += len(part)
                yield epoch, number, [row for row, _ in part], part[-1][1]
                number += 1
            if seen < len(self._data):
                hint = "set Data.stream_images to their number"
                raise InputError(f"the stream ended after {seen} of {len(self._data)} training images: {hint}")
            epoch, number = epoch + 1, 0
            start = Position(epoch, 0)
