"""Training batches: order, augmentation, labelled images per batch, binarisation."""

from collections.abc import Iterator
from itertools import islice, tee
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ae.data.augment import Augment
from ae.data.batch import Batch
from ae.data.images import ImageSet
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.seeding import generator
from ae.utils.validation import Positive, checked_arguments


class Batches:
    """Shuffled training batches; their order depends only on seed and epoch.

    An epoch shows every image once, and the last batch may be smaller.

    augment             applied to every batch
    labelled_per_batch  labelled images at the start of every batch; these are cycled in a shuffled order of their own,
                        the rest of the batch is unlabelled, and an epoch shows every unlabelled image once
    binarise            sample each pixel as 0 or 1 at every use, with the grey value as the probability of 1
                        (Burda et al. 2016, section 5)

    Raises InputError if `batch_size` exceeds the number of images, or `labelled_per_batch` can't be met.
    """

    @checked_arguments
    def __init__(
        self,
        data: ImageSet,
        batch_size: Positive[int],
        seed: int,
        augment: Augment | None = None,
        labelled_per_batch: int | None = None,
        binarise: bool = False,
    ) -> None:
        if batch_size > len(data):
            raise InputError(
                f"Recipe.batch_size must be at most {len(data)}, the number of training images, got {batch_size}"
            )
        self.data = data
        self.seed = seed
        self.augment = augment or Augment()
        self.binarise = binarise
        self._cycled, self._shown_count = torch.arange(0), len(data)
        self._shown_once: Int64[Tensor, " n"] | None = None  # None: all
        self._cycled_per_batch, self._shown_once_per_batch = 0, batch_size
        if labelled_per_batch is not None:
            if not 0 < labelled_per_batch < batch_size:
                valid = f"1 to {batch_size - 1} of a batch of {batch_size}"
                raise InputError(f"Data.labelled_per_batch must be {valid}, got {labelled_per_batch}")
            has_label = data.labels.cpu() >= 0
            self._cycled, self._shown_once = has_label.nonzero().flatten(), (~has_label).nonzero().flatten()
            self._shown_count = len(self._shown_once)
            self._cycled_per_batch, self._shown_once_per_batch = labelled_per_batch, batch_size - labelled_per_batch
            if not len(self._cycled) or not self._shown_count:
                raise InputError(
                    "Data.labelled_per_batch mixes labelled and unlabelled images, "
                    f"got {len(self._cycled)} and {self._shown_count}"
                )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self._shown_count // self._shown_once_per_batch)

    def size(self, step: int) -> int:
        """Number of images in batch `step`."""
        shown = step % len(self) * self._shown_once_per_batch
        return self._cycled_per_batch + min(self._shown_once_per_batch, self._shown_count - shown)

    def starting_at(self, step: int, state: dict[str, Any] | None = None) -> Iterator[Batch]:
        """Iterate over batches without end, starting at batch `step` of the training (counted from 0).

        With several processes, each process gets its shard of every batch. `state` is that of `state()` at this step.
        """
        for epoch, i, count, batch in self._read(step, state):
            if self.augment.moves:
                parameters = self.augment.draw(count, generator("augment", self.seed, epoch, i))
                batch = self.augment.moved(batch, distributed.shard(parameters, dim=1))
            if self.binarise:
                uniform = torch.rand(count, *self.data.shape, generator=generator("binarise", self.seed, epoch, i))
                white = distributed.shard(uniform).to(batch.images.device, non_blocking=True) < batch.images
                batch = batch.with_images(white.float())
            yield batch

    def state(self) -> dict[str, Any] | None:
        """State of data that are read in sequence, at which `starting_at` goes on; None where the step says it all."""
        return None

    def _read(self, step: int, state: dict[str, Any] | None) -> Iterator[tuple[int, int, int, Batch]]:
        """Iterate without end over (epoch, batch of the epoch, images of the global batch, this process's shard)."""
        positions, positions_to_read = tee(self._positions(step))
        batches = self.data.stream(distributed.shard(index) for _, _, index in positions_to_read)
        for (epoch, i, index), batch in zip(positions, batches, strict=False):  # both without end
            yield epoch, i, len(index), batch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch."""
        return islice(self.starting_at(epoch * len(self)), len(self))

    def _positions(self, step: int) -> Iterator[tuple[int, int, Int64[Tensor, " b"]]]:
        """Iterate without end over (epoch, batch of the epoch, indices of images), starting at batch `step`."""
        epoch, skip = divmod(step, len(self))
        while True:
            for i, index in enumerate(self.order(epoch, skip), start=skip):
                yield epoch, i, index
            epoch, skip = epoch + 1, 0

    def order(self, epoch: int, skip: int = 0) -> Iterator[Int64[Tensor, " b"]]:
        """Iterate over the indices of the images of each batch of an epoch, without the first `skip` batches."""
        order = torch.randperm(self._shown_count, generator=generator("order", self.seed, epoch))
        shown = order if self._shown_once is None else self._shown_once[order]
        count = len(self) * self._cycled_per_batch
        cycled = self._cycle(epoch * count, count) if count else shown[:0]
        for i in range(skip, len(self)):
            parts = [(cycled, self._cycled_per_batch), (shown, self._shown_once_per_batch)]
            yield torch.cat([indices[i * size : (i + 1) * size] for indices, size in parts])

    def _cycle(self, first: int, count: int) -> Int64[Tensor, " count"]:
        """Positions `first` to `first + count` of the labelled images, reshuffled in each cycle."""
        n = len(self._cycled)
        cycles = range(first // n, (first + count - 1) // n + 1)
        orders = [torch.randperm(n, generator=generator("labelled", self.seed, cycle)) for cycle in cycles]
        return self._cycled[torch.cat(orders)[first % n :][:count]]
