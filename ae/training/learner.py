"""The parameters that a loss trains, and their optimiser."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ae.models.freezing import trainable
from ae.training.recipe import Recipe
from ae.utils import distributed


class Learner:
    """Parameters, without those that are frozen, and the recipe's optimiser of them."""

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe) -> None:
        self.parameters = trainable(parameters)
        self.optimizer = recipe.make_optimizer(self.parameters)
        default = float(self.optimizer.defaults.get("lr") or 1.0)
        groups = self.optimizer.param_groups
        self._ratios = [float(group.get("lr", default)) / default for group in groups]  # 1 but for a factory's groups
        self._grad_clip = recipe.grad_clip

    def start_step(self, lr: float) -> None:
        """Set the learning rate, of which a group set by a factory has its share."""
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = lr * ratio

    def drop_gradients(self) -> None:
        """Drop the gradients, also those of another loss."""
        self.optimizer.zero_grad()

    def finish_step(self, with_norm: bool) -> Tensor | None:
        """Average the gradients over processes, clip them and update; return their norm, if asked for or known."""
        distributed.average_gradients(self.parameters)
        norm = None
        if with_norm or self._grad_clip is not None:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            norm = distributed.total_norm(gradients)
            if self._grad_clip is not None:
                factor = (self._grad_clip / (norm + 1e-6)).clamp(max=1.0)
                torch._foreach_mul_(list(map(distributed.own, gradients)), factor)
        self.optimizer.step()
        return norm
