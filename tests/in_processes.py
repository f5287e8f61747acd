"""What is checked inside of a group of processes: `torchrun --nproc-per-node N -m tests.in_processes`."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ae import (
    Augment,
    Autoencoder,
    Batch,
    Classifier,
    Consistency,
    ConvEncoder,
    Data,
    DeconvDecoder,
    Dense,
    Images,
    InputError,
    Joint,
    LearnedWeights,
    Teaching,
    VectorQuantized,
    evaluate,
)
from ae.corruptions import PatchMask
from ae.distributed import (
    SyncedBatchNorm2d,
    agree,
    from_main,
    gathered,
    is_main,
    launched,
    on_main,
    once_a_machine,
    one_batch,
    own,
    part,
    rank,
    world,
)
from ae.losses import masked_mean


def check_the_parts_are_the_whole() -> None:
    for count in (0, 1, 5, 6):
        whole = torch.arange(count)
        assert torch.equal(torch.cat(gathered(part(whole))), whole)
    assert len({own("noise", 3) for _ in range(1)} | set(gathered(own("noise", 3)))) == world()


def check_what_one_process_does_all_know() -> None:
    assert gathered(rank()) == list(range(world()))
    assert from_main(lambda: rank()) == 0

    def fails() -> int:
        raise InputError("no such file")

    for ask in (from_main, once_a_machine):
        with pytest.raises(InputError, match="no such file"):
            ask(fails)
    assert agree(rank() == 1, step=10)
    assert not agree(rank() == 1, step=11)
    done: list[int] = []
    on_main(done.append)(rank())
    assert sum(gathered(len(done))) == 1


def check_means_and_their_gradients_are_those_of_the_batch() -> None:
    """Few labels, all with the same process; and none at all."""
    values = torch.arange(7.0)
    for labelled in (values > 1, values < 1, values < 0, torch.ones(7, dtype=torch.bool)):
        weight, mine = torch.tensor(2.0, requires_grad=True), part(values)
        with one_batch(7):
            mean = masked_mean(weight * mine, part(labelled)) + masked_mean(weight * mine)
        mean.backward()
        assert weight.grad is not None
        expected = masked_mean(values, labelled) + values.mean()  # outside of a batch: what one process would have
        for found in (mean.detach() / 2, weight.grad):
            torch.testing.assert_close(torch.stack(gathered(found)).mean(), expected)


def check_batch_norm_is_that_of_the_batch() -> None:
    for count, side, affine in ((5, 4, True), (7, 4, True), (2, 4, True), (7, 1, False)):  # of 2, three have 0 or 1
        torch.manual_seed(0)
        x, towards = torch.randn(count, 3, side, side), torch.randn(count, 3, side, side)
        one = nn.BatchNorm2d(3, affine=affine)
        if affine:
            nn.init.normal_(one.weight)
        many = copy.deepcopy(one)
        many.__class__ = SyncedBatchNorm2d
        whole = x.clone().requires_grad_()
        (one(whole) * towards).sum().backward()
        mine = part(x).clone().requires_grad_()
        result = many(mine)
        (result * part(towards)).sum().backward()
        torch.testing.assert_close(result, part(one(x)), atol=1e-5, rtol=1e-4)
        assert mine.grad is not None
        assert whole.grad is not None
        torch.testing.assert_close(mine.grad, part(whole.grad), atol=1e-4, rtol=1e-4)
        for name, buffer in one.named_buffers():
            if name != "num_batches_tracked":
                continue
            assert many.num_batches_tracked == buffer - 1  # the line above made one more
        for ours, theirs in zip(many.parameters(), one.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(summed(ours.grad), theirs.grad, atol=1e-4, rtol=1e-4)


def check_images_are_in_memory_once() -> None:
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


def check_an_evaluation_is_that_of_one_process() -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))})
    data = Data("mnist", limit=100, validation=301).load()
    assert data.validation is not None
    found = evaluate(model, data.validation, Joint(), batch_size=50)
    dist.barrier()
    expected = gathered(found)[0]
    assert found == expected
    pixels, labels = data.validation.batch(slice(None)).images, data.validation.labels
    with torch.no_grad():
        output = model(pixels)
    assert found["accuracy"] == pytest.approx((output.logits["digit"].argmax(1) == labels).double().mean().item())
    assert found["mse"] == pytest.approx((output.reconstruction - pixels).square().mean().item(), rel=1e-5)


def check_a_codebook_follows_the_whole_batch() -> None:
    torch.manual_seed(0)
    one = VectorQuantized(3, codes=4, decay=0.5, revive=0.0)
    one.begun.fill_(True)
    many = copy.deepcopy(one)
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(5, 3, 2, 2)
        expected = one(x)
        with one_batch(5):
            code = many(part(x))
        torch.testing.assert_close(code.z, part(expected.z))
        torch.testing.assert_close(code.stats["perplexity"], expected.stats["perplexity"])
        torch.testing.assert_close(many.codebook, one.codebook)
    torch.manual_seed(rank())  # each starts and revives codes by chance, and by images of its own
    many = VectorQuantized(3, codes=8, revive=0.9)
    for _ in range(5):
        with one_batch(6):
            many(torch.randn(3, 3, 2, 2) + rank())
        books = gathered(many.codebook)
        assert all(torch.equal(book, books[0]) for book in books)


def check_objectives_average_to_that_of_the_batch() -> None:
    """Where nothing is drawn: labels of half of the images, all with the first process; a teacher for the others."""
    still = Teaching(align=5, weak=Augment(), strong=Augment(), hide=PatchMask(4, 0.0), confidence=0.0)
    torch.manual_seed(0)
    images, labels = torch.rand(7, 1, 12, 12), torch.tensor([3, 1, 2, -1, -1, -1, -1])
    whole, mine = Batch(images, labels), Batch(part(images), part(labels))
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5), {"digit": Classifier((5,))}
    )
    for make in (
        lambda: Joint(),
        lambda: LearnedWeights(Joint()),
        lambda: Consistency(model, 10, Joint(), still),
        lambda: Consistency(model, 10, Joint(), replace(still, method="mean-teacher")),
    ):
        alone, together = make(), make()
        for step in range(2):
            expected = alone(model, whole, step)
            with one_batch(7):
                found = together(model, mine, step)
            total = torch.stack(gathered(found.total.detach())).mean()
            torch.testing.assert_close(total, expected.total.detach())
        if isinstance(alone, Consistency):
            assert isinstance(together, Consistency)
            torch.testing.assert_close(together.frequencies, alone.frequencies)


def summed(x: Tensor) -> Tensor:
    return torch.stack(gathered(x)).sum(0)


if __name__ == "__main__":
    with launched():
        check_the_parts_are_the_whole()
        check_what_one_process_does_all_know()
        check_means_and_their_gradients_are_those_of_the_batch()
        check_batch_norm_is_that_of_the_batch()
        check_images_are_in_memory_once()
        check_an_evaluation_is_that_of_one_process()
        check_a_codebook_follows_the_whole_batch()
        check_objectives_average_to_that_of_the_batch()
        if is_main():
            print("all checks passed")
