"""Checks inside a group of processes: `torchrun --nproc-per-node N -m tests.helpers.in_processes`."""

import contextlib
import copy
import io
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ae import (
    FSQ,
    IWAE,
    MMD,
    Augment,
    Autoencoder,
    Batch,
    BetaTC,
    Classifier,
    Consistency,
    Contractive,
    ConvEncoder,
    Data,
    DeconvDecoder,
    Dense,
    Gaussian,
    Identity,
    Images,
    InputError,
    Joint,
    Ladder,
    Sphere,
    Streamed,
    TeacherConfig,
    TopK,
    UncertaintyWeighting,
    VectorQuantizer,
    evaluate,
)
from ae.data.corruptions import PatchMask
from ae.data.images import Batches
from ae.functional import free_bits, masked_mean
from ae.training.fit import Objective, Step
from ae.utils.distributed import (
    agree,
    all_gather,
    data_parallel,
    from_main,
    global_batch,
    is_main,
    on_main,
    rank,
    rank_key,
    shard,
    share_buffers,
    world_size,
)
from ae.utils.launch import launched
from ae.utils.shared_memory import once_per_machine
from ae.utils.signals import Ending


def check_the_parts_are_the_whole() -> None:
    for count in (0, 1, 5, 6):
        whole = torch.arange(count)
        assert torch.equal(torch.cat(all_gather(shard(whole))), whole)
    assert len({rank_key("noise", 3) for _ in range(1)} | set(all_gather(rank_key("noise", 3)))) == world_size()


def check_what_one_process_does_all_know() -> None:
    assert all_gather(rank()) == list(range(world_size()))
    assert from_main(lambda: rank()) == 0

    def fails() -> int:
        raise InputError("no such file")

    for ask in (from_main, once_per_machine):
        with pytest.raises(InputError, match="no such file"):
            ask(fails)
    assert agree(rank() == 1, step=10)
    assert not agree(rank() == 1, step=11)
    done: list[int] = []
    on_main(done.append)(rank())
    assert sum(all_gather(len(done))) == 1


def check_means_and_their_gradients_are_those_of_the_batch() -> None:
    """Few labels, all with the same process; and none at all."""
    values = torch.arange(7.0)
    for labelled in (values > 1, values < 1, values < 0, torch.ones(7, dtype=torch.bool)):
        weight, mine = torch.tensor(2.0, requires_grad=True), shard(values)
        with global_batch(7):
            mean = masked_mean(weight * mine, shard(labelled)) + masked_mean(weight * mine)
        mean.backward()
        assert weight.grad is not None
        expected = masked_mean(values, labelled) + values.mean()  # outside of a batch: what one process would have
        for found in (mean.detach() / 2, weight.grad):
            torch.testing.assert_close(torch.stack(all_gather(found)).mean(), expected)


def check_free_bits_are_those_of_the_batch() -> None:
    """A latent's rate is above them in one process's part, and below in the batch."""
    rates = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 6.0], [0.0, 0.0]])
    whole, mine = rates.clone().requires_grad_(), shard(rates).clone().requires_grad_()
    expected = free_bits(whole, 1.0)
    expected.backward()
    with global_batch(5):
        found = free_bits(mine, 1.0)
    found.backward()
    torch.testing.assert_close(torch.stack(all_gather(found.detach())).mean(), expected.detach())
    assert mine.grad is not None
    assert whole.grad is not None
    torch.testing.assert_close(mine.grad / world_size(), shard(whole.grad))


class NormAndAct(nn.BatchNorm2d):
    """With a forward of its own, as timm's have."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.3, self.eps)
        return F.silu(y)


class OfTorch(nn.BatchNorm2d):
    """Calls the function below PyTorch's `F.batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        running = self.running_mean, self.running_var
        return torch.batch_norm(x, self.weight, self.bias, *running, self.training, 0.3, self.eps, False)


NORMS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.BatchNorm1d(3), ()),
    (nn.BatchNorm1d(3), (5,)),
    (nn.BatchNorm2d(3), (4, 4)),
    (nn.BatchNorm2d(3), (1, 1)),
    (nn.BatchNorm2d(3, affine=False), (4, 4)),
    (nn.BatchNorm2d(3, momentum=None), (4, 4)),
    (nn.BatchNorm2d(3, track_running_stats=False), (4, 4)),
    (nn.BatchNorm2d(3).eval(), (4, 4)),
    (nn.BatchNorm2d(3).double(), (4, 4)),
    (nn.BatchNorm3d(3), (2, 2, 2)),
    (nn.SyncBatchNorm(3), (4, 4)),
    (NormAndAct(3), (4, 4)),
    (OfTorch(3), (4, 4)),
    (nn.InstanceNorm1d(3), (4,)),
    (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 4)),
    (nn.InstanceNorm2d(3, track_running_stats=True).eval(), (4, 4)),
    (nn.GroupNorm(3, 3), (4, 4)),
]


def check_norms_are_those_of_the_batch() -> None:
    """Output, gradients and running statistics, of several steps; of a batch of 2, three processes have parts of 1."""
    for norm, places in NORMS:
        for count in (2, 5):
            check_norm(norm, count, places)


def check_norm(norm: nn.Module, count: int, places: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    many, one = copy.deepcopy(norm), copy.deepcopy(norm)
    if isinstance(norm, nn.SyncBatchNorm):  # PyTorch's asks for CUDA
        one = nn.BatchNorm2d(3)
    kind = next(one.parameters(), torch.empty(0)).dtype
    for _ in range(3):
        x, towards = 100 + 3 * torch.randn(count, 3, *places, dtype=kind), torch.randn(count, 3, *places, dtype=kind)
        whole, mine = x.clone().requires_grad_(), shard(x).clone().requires_grad_()
        expected = one(whole)
        (expected * towards).sum().backward()
        with global_batch(count):
            result = many(mine)
            (result * shard(towards)).sum().backward()
        assert mine.grad is not None
        assert whole.grad is not None
        torch.testing.assert_close(result, shard(expected), atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(mine.grad, shard(whole.grad), atol=2e-4, rtol=1e-3)
    assert one.state_dict().keys() == many.state_dict().keys()
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(many.get_buffer(name), buffer)
    for ours, theirs in zip(many.parameters(), one.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            torch.testing.assert_close(summed(ours.grad), theirs.grad, atol=1e-3, rtol=1e-3)


def check_norms_of_lower_precision_have_exact_statistics() -> None:
    """In bfloat16 a mean of 300 would be off by 1."""
    x = (300 + torch.randn(6, 3, 8, 8)).to(torch.bfloat16)
    norm = nn.BatchNorm2d(3, momentum=1.0)
    with global_batch(6), torch.autocast("cpu", torch.bfloat16):
        assert norm(shard(x)).dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, x.float().mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.float().var((0, 2, 3)))


def check_norms_have_second_derivatives() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(5, 3, 2, 2), nn.BatchNorm2d(3)

    def slope(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return second

    expected = slope(x)
    with global_batch(5):
        torch.testing.assert_close(slope(shard(x)), shard(expected), atol=1e-3, rtol=1e-3)


def check_norms_are_those_of_the_batch_where_activations_are_recomputed() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(5, 3, 2, 2), nn.BatchNorm2d(3)
    mine = shard(x).clone().requires_grad_()
    with global_batch(5):
        plain = torch.autograd.grad(norm(mine).pow(3).sum(), mine)
        again = torch.autograd.grad(checkpoint(norm, mine, use_reentrant=False).pow(3).sum(), mine)
    torch.testing.assert_close(again, plain)


def check_one_value_a_channel_is_refused_by_all() -> None:
    with global_batch(1), pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.randn(int(is_main()), 3))


def check_modules_that_cannot_be_trained_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 \(LazyBatchNorm2d\) has no size before its first batch"):
        data_parallel(nn.Sequential(nn.Conv2d(1, 2, 1), nn.LazyBatchNorm2d()))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        scripted = torch.jit.trace(nn.BatchNorm2d(1), torch.zeros(2, 1, 2, 2), check_trace=False)
    with pytest.raises(InputError, match=r"the model .* is TorchScript, whose batch norm can't be synchronised"):
        data_parallel(scripted)


class Counting(nn.Module):
    """Keeps statistics of a kind that nobody else knows of."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.detach().amax())
        return self.scale * x


def check_buffers_that_come_apart_are_told_and_shared() -> None:
    inner, told = Counting(), io.StringIO()
    module = data_parallel(inner)
    module(torch.tensor([1.0 + rank()]))
    for _ in range(2):
        with contextlib.redirect_stderr(told):
            share_buffers(module)
    assert inner.largest == 1
    wanted = "module.largest differs between processes: each updates it by its shard; rank 0's is kept\n"
    assert told.getvalue() == (wanted if is_main() else "")


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
    expected = all_gather(found)[0]
    assert found == expected
    pixels, labels = data.validation.batch(slice(None)).images, data.validation.labels
    with torch.no_grad():
        output = model(pixels)
    assert found["accuracy"] == pytest.approx((output.logits["digit"].argmax(1) == labels).double().mean().item())
    assert found["mse"] == pytest.approx((output.reconstruction - pixels).square().mean().item(), rel=1e-5)


def check_a_codebook_follows_the_whole_batch() -> None:
    torch.manual_seed(0)
    one = VectorQuantizer(3, codebook_size=4, decay=0.5, dead_code_threshold=0.0)
    one.initialized.fill_(True)
    many = copy.deepcopy(one)
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(5, 3, 2, 2)
        expected = one(x)
        with global_batch(5):
            code = many(shard(x))
        torch.testing.assert_close(code.z, shard(expected.z))
        torch.testing.assert_close(code.stats["perplexity"], expected.stats["perplexity"])
        torch.testing.assert_close(many.codebook, one.codebook)
    torch.manual_seed(rank())  # each starts and revives codes by chance, and by images of its own
    many = VectorQuantizer(3, codebook_size=8, dead_code_threshold=0.9)
    for _ in range(5):
        with global_batch(6):
            many(torch.randn(3, 3, 2, 2) + rank())
        books = all_gather(many.codebook)
        assert all(torch.equal(book, books[0]) for book in books)


def check_objectives_average_to_that_of_the_batch() -> None:
    """Where nothing is drawn: labels of half of the images, all with the first process; a teacher for the others."""
    still = TeacherConfig(align=5, weak=Augment(), strong=Augment(), hide=PatchMask(4, 0.0), confidence=0.0)
    torch.manual_seed(0)
    images, labels = torch.rand(7, 1, 12, 12), torch.tensor([3, 1, 2, -1, -1, -1, -1])
    whole, mine = Batch(images, labels), Batch(shard(images), shard(labels))
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5), {"digit": Classifier((5,))}
    )
    for make in (
        lambda: Joint(),
        lambda: UncertaintyWeighting(Joint()),
        lambda: Consistency(model, 10, Joint(), still),
        lambda: Consistency(model, 10, Joint(), replace(still, method="mean-teacher")),
    ):
        alone, together = make(), make()
        for step in range(2):
            expected = alone(model, whole, step)
            with global_batch(7):
                found = together(model, mine, step)
            total = torch.stack(all_gather(found.total.detach())).mean()
            torch.testing.assert_close(total, expected.total.detach())
        if isinstance(alone, Consistency):
            assert isinstance(together, Consistency)
            torch.testing.assert_close(together.frequencies, alone.frequencies)


FEATURES = (6, 3, 3)
BOTTLENECKS: list[Callable[[], nn.Module]] = [
    Identity,
    lambda: Dense(FEATURES, 5),
    lambda: Sphere(FEATURES, 5),
    lambda: TopK(FEATURES, 5, 2),
    lambda: Gaussian(FEATURES, 5),
    lambda: VectorQuantizer(6, codebook_size=4, dead_code_threshold=0.9),
    lambda: FSQ(6, (4, 3)),
]
NATS = Joint("bernoulli", reconstruction=1.0, beta=1.0, free_bits=0.1)
TAUGHT = TeacherConfig(align=5, confidence=0.0)
OBJECTIVES: list[Callable[[Autoencoder], Objective]] = [
    lambda model: Joint(),
    lambda model: Joint(corruption=PatchMask(4, 0.5)),
    lambda model: NATS,
    lambda model: IWAE(3),
    lambda model: BetaTC(100),
    lambda model: MMD(),
    lambda model: Contractive(),
    lambda model: UncertaintyWeighting(Joint()),
    lambda model: Ladder(model, 12, 12, (1.0, 0.1, 0.1, 0.1, 0.1)),
    lambda model: Consistency(model, 10, Joint(), TAUGHT),
    lambda model: Consistency(model, 10, Joint(), replace(TAUGHT, method="mean-teacher")),
]


def model_with(bottleneck: nn.Module) -> Autoencoder:
    shape = (5,) if isinstance(bottleneck, Dense | Gaussian) else (2, 3, 3) if isinstance(bottleneck, FSQ) else FEATURES
    encoder, decoder = ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True)
    return Autoencoder(encoder, decoder, bottleneck, {"digit": Classifier(shape)})


def check_a_batch_of_one_image_is_trained_on_as_by_one_process() -> None:
    """The first process has it, and draws what a single one would; the parts of the others are empty."""
    for bottleneck in BOTTLENECKS:
        check_batch_of_one(bottleneck, lambda model: Joint())
    for objective in OBJECTIVES:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective)


def check_batch_of_one(bottleneck: Callable[[], nn.Module], objective: Callable[[Autoencoder], Objective]) -> None:
    torch.manual_seed(0)
    model = model_with(bottleneck())
    alone = Step(model, objective(model))
    together = copy.deepcopy(alone)
    parallel = data_parallel(together)
    for step in range(2):
        image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(step))
        batch = Batch(image, torch.tensor([step - 1]))  # without a label, then with one
        alone.zero_grad()
        parallel.zero_grad()
        torch.manual_seed(step)
        expected = alone(batch, step)
        expected.total.backward()
        torch.manual_seed(step)
        with global_batch(1):
            found = parallel(Batch(shard(batch.images), shard(batch.labels)), step)
            found.total.backward()
        total = torch.stack(all_gather(found.total.detach())).mean()
        torch.testing.assert_close(total, expected.total.detach())
        for name in ("active_units", "used", "perplexity", "codes_used"):
            assert found.terms.get(name) == expected.terms.get(name), name
        for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
            if theirs.grad is not None and theirs.grad.any():
                assert ours.grad is not None, name
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    for before, after in zip(alone.buffers(), together.buffers(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def check_what_bottlenecks_tell_is_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    features = torch.randn(7, *FEATURES)
    for make in (lambda: TopK(FEATURES, 5, 2), lambda: Gaussian(FEATURES, 5)):
        bottleneck = make()
        expected = bottleneck(features).stats
        with global_batch(7):
            found = bottleneck(shard(features)).stats
        assert found == expected


def check_streamed_images_have_empty_parts_too() -> None:
    images = Images(torch.randint(0, 256, (61, 1, 4, 4), dtype=torch.uint8), torch.arange(61) % 3, ("a", "b", "c"))
    items = list(zip(images.pixels, images.labels.tolist(), strict=True))
    streamed = Streamed(items, images.labels, images.classes, images.shape, workers=0)
    for batch_size in (20, 60):  # the last batch has one image
        held = Batches(images, batch_size, seed=0).epoch(0)
        for expected, found in zip(held, Batches(streamed, batch_size, seed=0).epoch(0), strict=True):
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.labels, expected.labels)


def check_an_evaluation_of_fewer_images_than_processes_is_that_of_one() -> None:
    torch.manual_seed(0)
    model = model_with(Gaussian(FEATURES, 5))
    images = Images(torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8), torch.tensor([3]), tuple("0123456789"))
    found = all_gather(evaluate(model, images, Joint()))
    assert all(each == found[0] for each in found)
    assert found[0].keys() >= {"loss", "mse", "accuracy", "accuracy/3"}


def summed(x: Tensor) -> Tensor:
    return torch.stack(all_gather(x)).sum(0)


def check_ends_of_groups() -> None:
    """However a group is left, and whoever keeps what: no thread and no group is left behind."""
    kept: list[object] = []

    def work(end: BaseException | None) -> None:
        import torch.distributed.nn.functional as late  # has the group in its functions' defaults

        module = data_parallel(nn.Linear(3, 3))
        output = module(torch.ones(2, 3))
        output.sum().backward()
        kept.extend((late, module, output, lambda group=dist.group.WORLD: group))
        if end is not None:
            raise end

    for end in (None, InputError("bad"), KeyboardInterrupt(), SystemExit(3), RuntimeError("bug")):
        with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as stack:
            if end is not None:
                stack.enter_context(pytest.raises(type(end)))
            with launched():
                work(end)
        assert not dist.is_initialized()
        until = time.monotonic() + 5
        while threads() and time.monotonic() < until:  # those that have ended are listed for a moment
            time.sleep(0.01)
        assert not threads(), (end, threads())


def threads() -> list[str]:
    """The names of the threads that this process has beside its main one and those of computations."""
    others = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    names = [(task / "comm").read_text().strip() for task in others]
    return [name for name in names if "autograd" not in name]


CHECKS = [
    check_the_parts_are_the_whole,
    check_what_one_process_does_all_know,
    check_means_and_their_gradients_are_those_of_the_batch,
    check_free_bits_are_those_of_the_batch,
    check_norms_are_those_of_the_batch,
    check_norms_of_lower_precision_have_exact_statistics,
    check_norms_have_second_derivatives,
    check_norms_are_those_of_the_batch_where_activations_are_recomputed,
    check_one_value_a_channel_is_refused_by_all,
    check_modules_that_cannot_be_trained_together_are_refused,
    check_buffers_that_come_apart_are_told_and_shared,
    check_images_are_in_memory_once,
    check_an_evaluation_is_that_of_one_process,
    check_a_codebook_follows_the_whole_batch,
    check_objectives_average_to_that_of_the_batch,
    check_a_batch_of_one_image_is_trained_on_as_by_one_process,
    check_what_bottlenecks_tell_is_of_the_whole_batch,
    check_streamed_images_have_empty_parts_too,
    check_an_evaluation_of_fewer_images_than_processes_is_that_of_one,
]


def wait_for_ever() -> None:
    """As a training whose first process waits for one that has stopped; signals wait for its next state."""
    with launched(), Ending().deferred():
        print(f"process {os.getpid()}", flush=True)
        if is_main():
            dist.barrier()
        while True:
            time.sleep(1)


if __name__ == "__main__":
    if "wait" in sys.argv:
        wait_for_ever()
    with launched():
        for check in CHECKS:
            check()
        is_first = is_main()
    check_ends_of_groups()
    if is_first:
        print("all checks passed")
