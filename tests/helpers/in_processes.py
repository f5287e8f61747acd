"""Checks inside a process group: `torchrun --nproc-per-node N -m tests.helpers.in_processes`."""

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
from ae.data.batches import Batches
from ae.data.corruptions import PatchMask
from ae.functional import free_bits, masked_mean
from ae.models.likelihoods import BernoulliLikelihood, GaussianLikelihood
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


class NormAndAct(nn.BatchNorm2d):
    """Batch norm with a custom forward, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.3, self.eps)
        return F.silu(y)


class NativeBatchNorm(nn.BatchNorm2d):
    """Batch norm by `torch.batch_norm`, below `F.batch_norm`."""

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
    (NativeBatchNorm(3), (4, 4)),
    (nn.InstanceNorm1d(3), (4,)),
    (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 4)),
    (nn.InstanceNorm2d(3, track_running_stats=True).eval(), (4, 4)),
    (nn.GroupNorm(3, 3), (4, 4)),
]


def check_norms_are_global() -> None:
    """Outputs, gradients and running statistics of several steps; with a batch of 2, a third process has no image."""
    for norm, places in NORMS:
        for count in (2, 5):
            check_norm(norm, count, places)


def check_norm(norm: nn.Module, count: int, places: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    many, one = copy.deepcopy(norm), copy.deepcopy(norm)
    if isinstance(norm, nn.SyncBatchNorm):  # PyTorch's needs CUDA
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


def check_norms_in_bfloat16_have_float32_statistics() -> None:
    """A mean of 300 in bfloat16 has an error of 1."""
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


def check_norms_are_global_under_checkpointing() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(5, 3, 2, 2), nn.BatchNorm2d(3)
    mine = shard(x).clone().requires_grad_()
    with global_batch(5):
        plain = torch.autograd.grad(norm(mine).pow(3).sum(), mine)
        again = torch.autograd.grad(checkpoint(norm, mine, use_reentrant=False).pow(3).sum(), mine)
    torch.testing.assert_close(again, plain)


def check_norms_refuse_one_value_per_channel() -> None:
    with global_batch(1), pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.randn(int(is_main()), 3))


def check_data_parallel_refuses_lazy_and_scripted_modules() -> None:
    with pytest.raises(InputError, match=r"1 \(LazyBatchNorm2d\) has no size before its first batch"):
        data_parallel(nn.Sequential(nn.Conv2d(1, 2, 1), nn.LazyBatchNorm2d()))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        scripted = torch.jit.trace(nn.BatchNorm2d(1), torch.zeros(2, 1, 2, 2), check_trace=False)
    with pytest.raises(InputError, match=r"the model .* is TorchScript, whose batch norm can't be synchronised"):
        data_parallel(scripted)


class Counting(nn.Module):
    """Module with a custom running statistic."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.detach().amax())
        return self.scale * x


def check_share_buffers_reports_and_broadcasts() -> None:
    inner, stderr = Counting(), io.StringIO()
    module = data_parallel(inner)
    module(torch.tensor([1.0 + rank()]))
    for _ in range(2):
        with contextlib.redirect_stderr(stderr):
            share_buffers(module)
    assert inner.largest == 1
    expected = "module.largest differs between processes: each updates it by its shard; rank 0's is kept\n"
    assert stderr.getvalue() == (expected if is_main() else "")


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


def check_evaluate_equals_one_process() -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))})
    data = Data("mnist", limit=100, validation=301).load()
    assert data.validation is not None
    metrics = evaluate(model, data.validation, Joint(), batch_size=50)
    dist.barrier()
    expected = all_gather(metrics)[0]
    assert metrics == expected
    pixels, labels = data.validation.batch(slice(None)).images, data.validation.labels
    with torch.no_grad():
        output = model(pixels)
    assert metrics["accuracy"] == pytest.approx((output.logits["digit"].argmax(1) == labels).double().mean().item())
    assert metrics["mse"] == pytest.approx((output.reconstruction - pixels).square().mean().item(), rel=1e-5)


def check_codebook_updates_are_global() -> None:
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
    torch.manual_seed(rank())  # initialisation and re-initialisation of codes depend on random streams and shards
    many = VectorQuantizer(3, codebook_size=8, dead_code_threshold=0.9)
    for _ in range(5):
        with global_batch(6):
            many(torch.randn(3, 3, 2, 2) + rank())
        books = all_gather(many.codebook)
        assert all(torch.equal(book, books[0]) for book in books)


def check_objectives_average_to_the_global_loss() -> None:
    """Deterministic objectives; the labelled images are in the first process, and a teacher serves the others."""
    deterministic = TeacherConfig(align=5, weak=Augment(), strong=Augment(), hide=PatchMask(4, 0.0), confidence=0.0)
    torch.manual_seed(0)
    images, labels = torch.rand(7, 1, 12, 12), torch.tensor([3, 1, 2, -1, -1, -1, -1])
    whole, mine = Batch(images, labels), Batch(shard(images), shard(labels))
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5), {"digit": Classifier((5,))}
    )
    for make in (
        lambda: Joint(),
        lambda: UncertaintyWeighting(Joint()),
        lambda: Consistency(model, 10, Joint(), deterministic),
        lambda: Consistency(model, 10, Joint(), replace(deterministic, method="mean-teacher")),
    ):
        alone, together = make(), make()
        for step in range(2):
            expected = alone(model, whole, step)
            with global_batch(7):
                loss = together(model, mine, step)
            total = torch.stack(all_gather(loss.total.detach())).mean()
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
NATS = Joint(reconstruction=1.0, beta=1.0, free_bits=0.1)
NATS_OBJECTIVES: list[Callable[[Autoencoder], Objective]] = [
    lambda model: NATS,
    lambda model: IWAE(3),
    lambda model: BetaTC(100),
]
TAUGHT = TeacherConfig(align=5, confidence=0.0)
OBJECTIVES: list[Callable[[Autoencoder], Objective]] = [
    lambda model: Joint(),
    lambda model: Joint(corruption=PatchMask(4, 0.5)),
    lambda model: MMD(),
    lambda model: Contractive(),
    lambda model: UncertaintyWeighting(Joint()),
    lambda model: Ladder(model, 12, 12, (1.0, 0.1, 0.1, 0.1, 0.1)),
    lambda model: Consistency(model, 10, Joint(), TAUGHT),
    lambda model: Consistency(model, 10, Joint(), replace(TAUGHT, method="mean-teacher")),
]


def model_with(bottleneck: nn.Module, likelihood: nn.Module | None = None) -> Autoencoder:
    shape = (5,) if isinstance(bottleneck, Dense | Gaussian) else (2, 3, 3) if isinstance(bottleneck, FSQ) else FEATURES
    encoder, decoder = ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True)
    return Autoencoder(encoder, decoder, bottleneck, {"digit": Classifier(shape)}, likelihood)


def check_step_on_one_image_equals_one_process() -> None:
    """The first process has the image and the noise of a single process; the shards of the others are empty."""
    for bottleneck in BOTTLENECKS:
        check_batch_of_one(bottleneck, lambda model: Joint())
    for objective in OBJECTIVES:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective)
    for objective in NATS_OBJECTIVES:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective, BernoulliLikelihood())
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective, GaussianLikelihood(learned=True))


def check_batch_of_one(
    bottleneck: Callable[[], nn.Module],
    objective: Callable[[Autoencoder], Objective],
    likelihood: nn.Module | None = None,
) -> None:
    torch.manual_seed(0)
    model = model_with(bottleneck(), likelihood)
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
            loss = parallel(Batch(shard(batch.images), shard(batch.labels)), step)
            loss.total.backward()
        total = torch.stack(all_gather(loss.total.detach())).mean()
        torch.testing.assert_close(total, expected.total.detach())
        for name in ("active_units", "used", "perplexity", "codes_used"):
            assert loss.terms.get(name) == expected.terms.get(name), name
        for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
            if theirs.grad is not None and theirs.grad.any():
                assert ours.grad is not None, name
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    for before, after in zip(alone.buffers(), together.buffers(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def check_bottleneck_stats_are_global() -> None:
    torch.manual_seed(0)
    features = torch.randn(7, *FEATURES)
    for make in (lambda: TopK(FEATURES, 5, 2), lambda: Gaussian(FEATURES, 5)):
        bottleneck = make()
        expected = bottleneck(features).stats
        with global_batch(7):
            stats = bottleneck(shard(features)).stats
        assert stats == expected


def check_streamed_batches_equal_held_ones_with_empty_shards() -> None:
    images = Images(torch.randint(0, 256, (61, 1, 4, 4), dtype=torch.uint8), torch.arange(61) % 3, ("a", "b", "c"))
    items = list(zip(images.pixels, images.labels.tolist(), strict=True))
    streamed = Streamed(items, images.labels, images.classes, images.shape, workers=0)
    for batch_size in (20, 60):  # the last batch has one image
        held = Batches(images, batch_size, seed=0).epoch(0)
        for expected, batch in zip(held, Batches(streamed, batch_size, seed=0).epoch(0), strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.labels, expected.labels)


def check_evaluate_takes_fewer_images_than_processes() -> None:
    torch.manual_seed(0)
    model = model_with(Gaussian(FEATURES, 5))
    images = Images(torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8), torch.tensor([3]), tuple("0123456789"))
    metrics = all_gather(evaluate(model, images, Joint()))
    assert all(each == metrics[0] for each in metrics)
    assert metrics[0].keys() >= {"loss", "mse", "accuracy", "accuracy/3"}


def summed(x: Tensor) -> Tensor:
    return torch.stack(all_gather(x)).sum(0)


def check_launched_leaves_no_group() -> None:
    """No group and no thread is left after any exception, and with any reference to modules or the group."""
    references: list[object] = []

    def work(end: BaseException | None) -> None:
        import torch.distributed.nn.functional as late  # its functions have the group as default argument

        module = data_parallel(nn.Linear(3, 3))
        output = module(torch.ones(2, 3))
        output.sum().backward()
        references.extend((late, module, output, lambda group=dist.group.WORLD: group))
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
        while threads() and time.monotonic() < until:  # ended threads stay listed for a moment
            time.sleep(0.01)
        assert not threads(), (end, threads())


def threads() -> list[str]:
    """List the names of this process's threads, without the main thread and those of autograd."""
    others = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    names = [(task / "comm").read_text().strip() for task in others]
    return [name for name in names if "autograd" not in name]


CHECKS = [
    check_shards_partition_the_batch,
    check_collectives_share_results_and_errors,
    check_masked_mean_and_its_gradient_are_global,
    check_free_bits_are_global,
    check_norms_are_global,
    check_norms_in_bfloat16_have_float32_statistics,
    check_norms_have_second_derivatives,
    check_norms_are_global_under_checkpointing,
    check_norms_refuse_one_value_per_channel,
    check_data_parallel_refuses_lazy_and_scripted_modules,
    check_share_buffers_reports_and_broadcasts,
    check_once_per_machine_shares_memory,
    check_evaluate_equals_one_process,
    check_codebook_updates_are_global,
    check_objectives_average_to_the_global_loss,
    check_step_on_one_image_equals_one_process,
    check_bottleneck_stats_are_global,
    check_streamed_batches_equal_held_ones_with_empty_shards,
    check_evaluate_takes_fewer_images_than_processes,
]


def wait_for_ever() -> None:
    """Wait in a barrier that never completes, with signals deferred, as training does for a stopped process."""
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
    check_launched_leaves_no_group()
    if is_first:
        print("all checks passed")
