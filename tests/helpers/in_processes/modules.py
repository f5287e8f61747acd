"""Modules in several processes: norms of the whole batch, and buffers."""

import contextlib
import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ae import (
    InputError,
)
from ae.utils.distributed import (
    all_gather,
    average_gradients,
    is_main,
    rank,
    replicate,
    shard,
    share_buffers,
    world_size,
)
from ae.utils.global_batch import global_batch


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


def summed(x: Tensor) -> Tensor:
    return torch.stack(all_gather(x)).sum(0)


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


def check_replicate_copies_weights_and_refuses_scripted_and_different_modules() -> None:
    torch.manual_seed(rank())
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    replicate(module)
    states = all_gather(module.state_dict())
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in state)
    with pytest.raises(InputError, match="the processes have different models"):
        replicate(nn.Linear(2, 3 + rank()))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        scripted = torch.jit.trace(nn.BatchNorm2d(1), torch.zeros(2, 1, 2, 2), check_trace=False)
    with pytest.raises(InputError, match=r"the model .* is TorchScript, whose batch norm can't be synchronised"):
        replicate(scripted)


def check_average_gradients_leaves_parameters_without_a_gradient() -> None:
    """One parameter has a gradient in all processes, one in the main process only, one in none; of two dtypes."""
    both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    double = nn.Parameter(torch.zeros(3, 4, 5, 6, dtype=torch.float64).to(memory_format=torch.channels_last))
    both.grad = torch.full((2,), 1.0 + rank())
    double.grad = torch.arange(360.0, dtype=torch.float64).view(3, 4, 5, 6) * (1 + rank())
    if is_main():
        one.grad = torch.full((2,), 6.0)
    average_gradients([both, one, none, double])
    mean = 1 + (world_size() - 1) / 2
    assert both.grad.tolist() == [mean, mean]
    assert one.grad is not None
    assert one.grad.tolist() == [6.0 / world_size()] * 2
    assert none.grad is None
    torch.testing.assert_close(double.grad, torch.arange(360.0, dtype=torch.float64).view(3, 4, 5, 6) * mean)


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
    module, stderr = Counting(), io.StringIO()
    module(torch.tensor([1.0 + rank()]))
    for _ in range(2):
        with contextlib.redirect_stderr(stderr):
            share_buffers(module)
    assert module.largest == 1
    expected = "largest differs between processes: each updates it by its shard; rank 0's is kept\n"
    assert stderr.getvalue() == (expected if is_main() else "")


CHECKS = [
    check_norms_are_global,
    check_norms_in_bfloat16_have_float32_statistics,
    check_norms_have_second_derivatives,
    check_norms_are_global_under_checkpointing,
    check_norms_refuse_one_value_per_channel,
    check_replicate_copies_weights_and_refuses_scripted_and_different_modules,
    check_average_gradients_leaves_parameters_without_a_gradient,
    check_share_buffers_reports_and_broadcasts,
]
