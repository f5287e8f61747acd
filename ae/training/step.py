"""The losses of a batch: model and objective as one module, compiled, in bf16, and divided into parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ae.data import Batch
from ae.models.autoencoder import Autoencoder
from ae.objectives import Loss, checked_loss
from ae.training.precision import Precision
from ae.utils.errors import InputError

Objective = Callable[[Any, Batch, int], Loss | Iterator[tuple[str, Loss]]]
"""(model, batch, step) -> the loss, or (name, loss) of each of several losses, minimised in turn."""


class Step(nn.Module):
    """Model and objective as one module, which holds every trained parameter, and is saved as the training state."""

    model: Any

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, step: int) -> Any:
        """Compute the loss of one batch."""
        return self.objective(self.model, batch, step)

    def average_weights(self, decay: float | None) -> nn.Module | None:
        """Return the module that holds the average of the model's weights; None without a decay.

        It is the objective's `averaged`, a copy of the model that the loss reads, or a new copy. Raises InputError for
        an objective that needs an average, without a decay.
        """
        averaged: nn.Module | None = getattr(self.objective, "averaged", None)
        if averaged is not None and decay is None:
            name = type(self.objective).__name__
            raise InputError(f"{name} reads an average of the weights: set Recipe.ema, its decay a step, such as 0.99")
        if averaged is None and decay is not None:
            averaged = self.averaged = deepcopy(self.model).requires_grad_(False).eval()
        return averaged

    def parameters_of_losses(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters that each loss trains, by its name; raises InputError for an objective that lacks them.

        A single loss is named `loss`, and trains every parameter.
        """
        objective: Any = self.objective
        if not has_several_losses(objective):
            return {"loss": self.parameters()}
        learners = objective.learners(self.model)
        if not isinstance(learners, Mapping) or not learners:
            got = type(learners).__name__
            raise InputError(f"learners(model) must give the parameters of each loss by its name, gave {got}")
        return learners

    def losses(self, batch: Batch, step: int, precision: Precision) -> Iterator[tuple[str, Loss]]:
        """Yield (name, loss) of each loss, computed when it is asked for: after the update by the one before.

        A single loss is named `loss`.
        """
        autocast = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16")
        with autocast:
            output = self(batch, step)
        if not isinstance(output, Iterator):
            yield "loss", checked_loss(output, trains=True)
            return
        while True:
            with autocast:
                item = next(output, None)
            if item is None:
                return
            if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
                raise InputError(f"an objective of several losses must yield (name, Loss), yielded {item!r:.60}")
            yield item[0], checked_loss(item[1], trains=True)

    def compile_parts(self) -> None:
        """Compile the step; of an objective of several losses, which yields between them, the parts of the model."""
        self._before = [(part, part._compiled_call_impl) for part in self._compiled_parts()]
        for part, _ in self._before:
            part.compile()

    def release_parts(self) -> None:
        """Undo `compile_parts`, so that the model is the user's again, compiled or not."""
        for part, compiled in self._before:
            part._compiled_call_impl = compiled

    def _compiled_parts(self) -> list[nn.Module]:
        if not has_several_losses(self.objective):
            return [self]
        return list(self.model.children()) if isinstance(self.model, Autoencoder) else [self.model]


def has_several_losses(objective: Any) -> bool:
    """Whether an objective yields several losses: it has `learners(model)`, the parameters that each of them trains."""
    return hasattr(objective, "learners")
