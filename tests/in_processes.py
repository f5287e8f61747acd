"""What is checked inside of a group of processes: `torchrun --nproc-per-node N -m tests.in_processes`."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ae import Autoencoder, Classifier, ConvEncoder, Data, DeconvDecoder, Images, InputError, Joint, evaluate
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
    for count in (5, 7, 2):  # of the last, three processes have none or one
        torch.manual_seed(0)
        x, towards = torch.randn(count, 3, 4, 4), torch.randn(count, 3, 4, 4)
        one = nn.BatchNorm2d(3)
        nn.init.normal_(one.weight)
        many = copy.deepcopy(one)
        many.__class__ = SyncedBatchNorm2d
        (one(x) * towards).sum().backward()
        mine = part(x).clone().requires_grad_()
        result = many(mine)
        (result * part(towards)).sum().backward()
        torch.testing.assert_close(result, part(one(x)), atol=1e-5, rtol=1e-4)
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
        if is_main():
            print("all checks passed")
