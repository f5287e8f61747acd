"""Collectives, means over the whole batch, shared memory, and batches."""

import pytest
import torch
import torch.distributed as dist

from ae import (
    Data,
    Images,
    InputError,
    Streamed,
)
from ae.data.batches import Batches
from ae.functional import free_bits, masked_mean
from ae.utils.distributed import (
    agree,
    all_gather,
    from_main,
    is_main,
    on_main,
    rank,
    rank_key,
    shard,
    world_size,
)
from ae.utils.global_batch import global_batch
from ae.utils.shared_memory import once_per_machine


def check_shards_partition_the_batch() -> None:
    for count in (0, 1, 5, 6):
        x = torch.arange(count)
        assert torch.equal(torch.cat(all_gather(shard(x))), x)
    assert len({rank_key("noise", 3) for _ in range(1)} | set(all_gather(rank_key("noise", 3)))) == world_size()


def check_collectives_share_results_and_errors() -> None:
    assert all_gather(rank()) == list(range(world_size()))
    assert from_main(lambda: rank()) == 0

    def fails() -> int:
        raise InputError("no such file")

    for call in (from_main, once_per_machine):
        with pytest.raises(InputError, match="no such file"):
            call(fails)
    assert agree(rank() == 1, step=10)
    assert not agree(rank() == 1, step=11)
    calls: list[int] = []
    on_main(calls.append)(rank())
    assert sum(all_gather(len(calls))) == 1


def check_masked_mean_and_its_gradient_are_global() -> None:
    """Few labels, all in the same process, or none."""
    values = torch.arange(7.0)
    for labelled in (values > 1, values < 1, values < 0, torch.ones(7, dtype=torch.bool)):
        weight, mine = torch.tensor(2.0, requires_grad=True), shard(values)
        with global_batch(7):
            mean = masked_mean(weight * mine, shard(labelled)) + masked_mean(weight * mine)
        mean.backward()
        assert weight.grad is not None
        expected = masked_mean(values, labelled) + values.mean()  # outside of `global_batch`: as in one process
        for local in (mean.detach() / 2, weight.grad):
            torch.testing.assert_close(torch.stack(all_gather(local)).mean(), expected)


def check_free_bits_are_global() -> None:
    """A latent's rate exceeds the free bits in one shard, but not in the batch."""
    rates = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 6.0], [0.0, 0.0]])
    whole, mine = rates.clone().requires_grad_(), shard(rates).clone().requires_grad_()
    expected = free_bits(whole, 1.0)
    expected.backward()
    with global_batch(5):
        rate = free_bits(mine, 1.0)
    rate.backward()
    torch.testing.assert_close(torch.stack(all_gather(rate.detach())).mean(), expected.detach())
    assert mine.grad is not None
    assert whole.grad is not None
    torch.testing.assert_close(mine.grad / world_size(), shard(whole.grad))


def check_once_per_machine_shares_memory() -> None:
    data = Data("mnist", limit=100, validation=7).load()
    assert isinstance(data.train, Images)
    assert data.test is not None
    test = data.test()
    assert (len(data.train), len(test)) == (100, 10_000)
    before = data.train.pixels.clone()
    dist.barrier()
    if is_main():
        data.train.pixels[0, 0, 0, 0] = 255 - before[0, 0, 0, 0]
    dist.barrier()
    assert data.train.pixels[0, 0, 0, 0] == 255 - before[0, 0, 0, 0]
    assert torch.equal(data.train.pixels[1:], before[1:])


def check_streamed_batches_equal_held_ones_with_empty_shards() -> None:
    images = Images(torch.randint(0, 256, (61, 1, 4, 4), dtype=torch.uint8), torch.arange(61) % 3, ("a", "b", "c"))
    items = list(zip(images.pixels, images.labels.tolist(), strict=True))
    streamed = Streamed(items, images.labels, images.classes, images.shape, workers=0)
    for batch_size in (20, 60):  # the last batch has one image
        held = Batches(images, batch_size, seed=0).epoch(0)
        for expected, batch in zip(held, Batches(streamed, batch_size, seed=0).epoch(0), strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.labels, expected.labels)


CHECKS = [
    check_shards_partition_the_batch,
    check_collectives_share_results_and_errors,
    check_masked_mean_and_its_gradient_are_global,
    check_free_bits_are_global,
    check_once_per_machine_shares_memory,
    check_streamed_batches_equal_held_ones_with_empty_shards,
]
