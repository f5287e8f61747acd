"""Exponential moving average (EMA) of a module's weights."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def average_(average: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    """Update the exponential moving average of `module`'s weights and buffers at `step`, counted from 0.

    The decay is at most step / (step + 1), so that the initial weights have no influence (code of Tarvainen & Valpola
    2017). A batch norm in training mode keeps its running statistics, which are of the images that it sees. Shared
    weights are averaged once. Buffers of integers are copied. Both modules have the same structure.
    """
    weight = 1 - min(decay, step / (step + 1))
    seen = set()
    for target, source in zip(average.modules(), module.modules(), strict=True):
        pairs: list[tuple[Tensor, Tensor]] = []
        pairs += zip(target.parameters(recurse=False), source.parameters(recurse=False), strict=True)
        if not (isinstance(target, _BatchNorm) and target.training):
            pairs += zip(target.buffers(recurse=False), source.buffers(recurse=False), strict=True)
        for mean, value in pairs:
            if mean in seen:
                continue
            seen.add(mean)
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)
