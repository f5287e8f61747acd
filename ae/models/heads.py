"""Heads: modules that predict a target of an image from its code.

The contract of a head, an `nn.Module`, is

    target                                name of the target, a key of `Batch.targets`
    forward(code's mean) -> output        or, of a head with `reads_stages`, forward(code.stages) -> output
    loss_name                             key under which the loss is logged
    loss(output, target) -> [b]           loss of each example, over the known values of its target
    metrics(output, target) -> {name: [b]}

A target that is missing is -1 (integers) or NaN (floats); losses and metrics of such an example are not read. Any other
module that is the only head is read as a classifier of the target `label`, whose output is logits [b classes].
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.functional import LABEL, at_least_float32, cross_entropy
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments


@runtime_checkable
class Head(Protocol):
    """The contract above."""

    target: str
    loss_name: str

    def loss(self, output: Any, target: Any) -> Float[Tensor, " b"]: ...
    def metrics(self, output: Any, target: Any) -> dict[str, Float[Tensor, " b"]]: ...


class Classification:
    """Loss and metrics of the contract for logits [b classes] and classes [b]."""

    loss_name = "cross_entropy"

    def __init__(self, target: str = LABEL) -> None:
        self.target = target

    def loss(self, output: Float[Tensor, "b classes"], target: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Cross-entropy in nats."""
        return cross_entropy(output, target)

    def metrics(
        self, output: Float[Tensor, "b classes"], target: Int64[Tensor, " b"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """`accuracy`: whether the most likely class is the target."""
        return {"accuracy": (output.argmax(1) == target).float()}


def heads_of(model: nn.Module) -> dict[str, Head]:
    """The heads of a model by name: those that follow the contract, and any module that is the only head.

    The latter is read as a classifier of `label`.
    """
    modules: dict[str, nn.Module] = dict(model.heads.items())  # type: ignore[operator, union-attr]
    if len(modules) == 1:
        ((name, module),) = modules.items()
        return {name: module if isinstance(module, Head) else Classification()}
    return {name: module for name, module in modules.items() if isinstance(module, Head)}


def prefix_of(name: str, model: nn.Module) -> str:
    """The prefix of the logged names of a head: none for the only head, else `NAME/`."""
    return "" if len(model.heads) == 1 else f"{name}/"  # type: ignore[arg-type]


def is_classifier(head: Head) -> bool:
    """Whether a head predicts one class of an image, by logits [b classes]."""
    return head.loss_name == Classification.loss_name


def class_count(head: Head, output: Tensor) -> int | None:
    """The number of values that the integers of a head's target can have; None if they have no limit."""
    if is_classifier(head) and output.ndim == 2:
        return output.shape[1]
    classes = getattr(head, "classes", None)
    return classes if isinstance(classes, int) else None


class _Layers(nn.Module):
    """The fully connected layers of a CNN: in_shape -> `hidden` -> ReLU -> outputs.

    Raises InputError for codes of another shape than `in_shape`.
    """

    def __init__(self, in_shape: Sequence[int], outputs: int, hidden: int) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.hidden = hidden
        self.fc1 = nn.Linear(math.prod(in_shape), hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b outputs"]:
        """Code [b *in_shape] -> outputs of the last layer."""
        return self.fc2(self.features(code))

    def features(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b hidden"]:
        """Code [b *in_shape] -> activations of the hidden layer, the input of the last linear layer."""
        return self.pre_activation(code).relu()

    def pre_activation(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b hidden"]:
        """Code [b *in_shape] -> the hidden layer before its ReLU."""
        check_shape("code", code, self.in_shape)
        return self.fc1(code.flatten(1))


class Classifier(_Layers, Classification):
    """Class of an image: in_shape -> `hidden` -> ReLU -> `classes` logits; target [b] in 0..classes-1.

    Loss: cross-entropy in nats. Raises InputError for codes of another shape than `in_shape`.
    """

    @checked_arguments
    def __init__(
        self,
        in_shape: Sequence[Positive[int]],
        classes: Positive[int] = 10,
        hidden: Positive[int] = 128,
        target: str = LABEL,
    ) -> None:
        super().__init__(in_shape, classes, hidden)
        self.classes, self.target = classes, target


class Regressor(_Layers):
    """Numbers of an image: in_shape -> `hidden` -> ReLU -> `count` numbers; target [b] for one, else [b count].

    The network predicts (target - mean) / std; `mean` and `std` of the training targets, a number or one of each
    column, make its scale 1. The output is in the target's units. Loss: squared error in units of `std`, the mean over
    the known numbers of an example. Metric: `absolute_error` in the target's units.
    """

    loss_name = "squared_error"
    shift: Tensor
    scale: Tensor

    @checked_arguments
    def __init__(
        self,
        in_shape: Sequence[Positive[int]],
        target: str,
        count: Positive[int] = 1,
        hidden: Positive[int] = 128,
        mean: float | Sequence[float] = 0.0,
        std: Positive[float] | Sequence[Positive[float]] = 1.0,
    ) -> None:
        super().__init__(in_shape, count, hidden)
        self.target, self.count, self.mean, self.std = target, count, mean, std
        for name, values in (("shift", mean), ("scale", std)):
            # created on the CPU also where a model is built on the meta device
            tensor = torch.tensor(values, dtype=torch.float32, device="cpu")
            if tensor.ndim and len(tensor) != count:
                raise InputError(f"mean and std must be one number or {count}, got {len(tensor)}")
            self.register_buffer(name, tensor.expand(count).clone(), persistent=False)

    def forward(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b count"]:
        """Code [b *in_shape] -> numbers [b count] in the target's units."""
        return self.shift + self.scale * at_least_float32(super().forward(code))

    def loss(self, output: Float[Tensor, "b count"], target: Float[Tensor, "b *count"]) -> Float[Tensor, " b"]:
        """Squared error in units of `std`."""
        error, known = self._errors(output, target)
        return (error / self.scale).square().sum(1) / known

    def metrics(
        self, output: Float[Tensor, "b count"], target: Float[Tensor, "b *count"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """`absolute_error` in the target's units."""
        error, known = self._errors(output, target)
        return {"absolute_error": error.abs().sum(1) / known}

    def _errors(self, output: Tensor, target: Tensor) -> tuple[Float[Tensor, "b count"], Float[Tensor, " b"]]:
        """The error of each number, 0 where the target is NaN, and how many are not, at least 1."""
        kind = f"{target.dtype} {list(target.shape[1:])}".removeprefix("torch.")
        target = target[:, None] if target.ndim == 1 else target
        if target.shape != output.shape or not target.is_floating_point():
            raise InputError(f"the target {self.target} must be {self.count} floats an image, got {kind}")
        known = ~target.isnan()
        target = torch.where(known, target.to(output.dtype), output.detach())  # a NaN would reach the gradient
        return torch.where(known, output - target, 0), known.sum(1).clamp(min=1).to(output.dtype)


class MultiLabel(_Layers):
    """Several labels of an image, each present or not: in_shape -> `hidden` -> ReLU -> `labels` logits.

    Target: integers [b labels] of 0 and 1, -1 where unknown. Loss: binary cross-entropy in nats, the sum over the known
    labels. Metrics: `label_accuracy`, the fraction of the known labels that is right; `exact_match`, whether all are.
    """

    loss_name = "binary_cross_entropy"
    classes = 2  # of each label

    @checked_arguments
    def __init__(
        self, in_shape: Sequence[Positive[int]], target: str, labels: Positive[int], hidden: Positive[int] = 128
    ) -> None:
        super().__init__(in_shape, labels, hidden)
        self.target, self.labels = target, labels

    def loss(self, output: Float[Tensor, "b labels"], target: Int64[Tensor, "b labels"]) -> Float[Tensor, " b"]:
        """Binary cross-entropy in nats."""
        self._check(output, target)
        values = F.binary_cross_entropy_with_logits(output, target.clamp(min=0).to(output.dtype), reduction="none")
        return torch.where(target >= 0, values, 0).sum(1)

    def metrics(
        self, output: Float[Tensor, "b labels"], target: Int64[Tensor, "b labels"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """`label_accuracy` and `exact_match`."""
        self._check(output, target)
        known, is_right = target >= 0, (output > 0) == (target > 0)
        rights = torch.where(known, is_right, False).sum(1) / known.sum(1).clamp(min=1)
        return {"label_accuracy": rights, "exact_match": (is_right | ~known).all(1).float()}

    def _check(self, output: Tensor, target: Tensor) -> None:
        if target.shape != output.shape or target.is_floating_point():
            kind = f"{target.dtype} {list(target.shape[1:])}".removeprefix("torch.")
            raise InputError(f"the target {self.target} must be {self.labels} integers 0 or 1 an image, got {kind}")
