"""Synchronised batch norm on CPU and CUDA, for every kind of batch norm and instance norm module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def synced_norm() -> Iterator[None]:
    """Take the statistics of batch norm in training mode, and running ones of instance norm, over all processes.

    PyTorch's functions are patched, not modules. The patch covers batch norm of any dimension, affine or not,
    subclasses, and modules with a custom forward. Statistics are in float32 at least, with first and second
    derivatives. A shard may be empty. `nn.SyncBatchNorm` stays PyTorch's on CUDA, and is supported on CPU, too.
    """
    patches = [
        (F, "batch_norm", _batch_norm),
        (F, "instance_norm", _instance_norm),
        (torch, "batch_norm", _native_batch_norm),
        (nn.SyncBatchNorm, "forward", _sync_batch_norm_forward),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, function in patches:
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


_pytorch_batch_norm, _pytorch_instance_norm = torch.batch_norm, F.instance_norm
_pytorch_sync_batch_norm = nn.SyncBatchNorm.forward


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over the global batch, of which x [b c ...] is this process's shard."""
    if not training:
        cudnn = torch.backends.cudnn.enabled
        return _pytorch_batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn)
    dims, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
    exact = _at_least_float32(x)
    local_count = exact.new_full((1,), x.numel() // x.shape[1])
    *sums, count = _AllSum.apply(torch.cat([exact.sum(dims), local_count])).split([x.shape[1], 1])
    count = count.detach()
    if not x.is_cuda and count <= 1:  # the comparison would synchronise a CUDA device
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
    mean = sums[0] / count
    centred = exact - mean.view(shape)
    variance = _AllSum.apply(centred.square().sum(dims)) / count
    _update_running(running_mean, mean, momentum)
    _update_running(running_var, variance * count / (count - 1), momentum)
    normalised = centred * (variance + eps).rsqrt().view(shape)
    return _scaled(normalised, weight, bias).to(x.dtype)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm`, with running statistics averaged over the images of all processes."""
    if use_input_stats and running_mean is not None and running_var is not None:
        images = _at_least_float32(x.detach()).flatten(2)  # [b c n]
        mean = images.mean(2)
        variance = (images - mean[:, :, None]).square().sum(2) / (images.shape[2] - 1)
        count = mean.new_full((1,), len(x))
        *sums, count = _AllSum.apply(torch.cat([mean.sum(0), variance.sum(0), count])).split(
            [x.shape[1], x.shape[1], 1]
        )
        _update_running(running_mean, sums[0] / count, momentum)
        _update_running(running_var, sums[1] / count, momentum)
        running_mean = running_var = None
    if not len(x):  # PyTorch refuses an empty batch; the weights need gradients nevertheless
        return _scaled(x, weight, bias)
    return _pytorch_instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.batch_norm` over the global batch."""
    return _batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _sync_batch_norm_forward(self: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """`nn.SyncBatchNorm.forward`, on a CPU too."""
    if x.device.type == "cpu" and self.process_group is None:
        return _BatchNorm.forward(self, x)
    return _pytorch_sync_batch_norm(self, x)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale x [b c ...] by the weight [c], and add the bias [c]."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    if weight is not None:
        x = x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def _update_running(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(value.to(running.dtype), momentum)


class _AllSum(torch.autograd.Function):
    """Differentiable all-reduce by sum; the gradient is summed likewise, as the loss of every process depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Sum x, of the same shape in every process."""
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Gradient of the sum -> gradient of x, itself differentiable."""
        return _AllSum.apply(*gradients)
