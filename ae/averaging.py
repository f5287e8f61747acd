"""An average of a module's weights over the steps of its training."""

import torch
from torch import nn


@torch.no_grad()
def average_(average: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    """Take the weights and statistics that `module` has at `step`, counted from 0, into their exponential average.

    The first steps count alike, so that the start is forgotten: 1 - decay is at least 1 / (step + 1), as in the code of
    Tarvainen & Valpola 2017. Both modules are of the same kind.
    """
    new = 1 - min(decay, step / (step + 1))
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, new)
        else:
            mean.copy_(value)
