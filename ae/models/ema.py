"""An average of a module's weights over the steps of its training."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def average_(average: nn.Module, module: nn.Module, step: int, decay: float, statistics: bool = True) -> None:
    """Take the weights and buffers that `module` has at `step`, counted from 0, into their exponential average.

    The first steps count alike, so that the start is forgotten: 1 - decay is at least 1 / (step + 1), as in the code of
    Tarvainen & Valpola 2017. Without `statistics`, those of batch norm that is in training mode are left to the average
    itself. Both modules are of the same kind. Shared weights are averaged once.
    """
    new = 1 - min(decay, step / (step + 1))
    averaged = set()
    for own, other in zip(average.modules(), module.modules(), strict=True):
        pairs: list[tuple[Tensor, Tensor]] = []
        pairs += zip(own.parameters(recurse=False), other.parameters(recurse=False), strict=True)
        if statistics or not (isinstance(own, _BatchNorm) and own.training):
            pairs += zip(own.buffers(recurse=False), other.buffers(recurse=False), strict=True)
        for mean, value in pairs:
            if mean in averaged:
                continue
            averaged.add(mean)
            if mean.is_floating_point():
                mean.lerp_(value, new)
            else:
                mean.copy_(value)
