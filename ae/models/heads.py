"""Heads: small modules on the code's mean."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.validation import Positive, check_shape, checked_arguments


class Classifier(nn.Module):
    """The fully connected layers of a CNN: in_shape -> `hidden` -> ReLU -> `classes` logits.

    Raises InputError for codes of another shape than `in_shape`.
    """

    @checked_arguments
    def __init__(
        self, in_shape: Sequence[Positive[int]], classes: Positive[int] = 10, hidden: Positive[int] = 128
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.classes = classes
        self.hidden = hidden
        self.fc1 = nn.Linear(math.prod(in_shape), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b classes"]:
        """Code [b *in_shape] -> logits [b classes]."""
        return self.fc2(self.features(code))

    def features(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b hidden"]:
        """Code [b *in_shape] -> activations of the hidden layer, the input of the last linear layer."""
        return self.pre_activation(code).relu()

    def pre_activation(self, code: Float[Tensor, "b *code"]) -> Float[Tensor, "b hidden"]:
        """Code [b *in_shape] -> the hidden layer before its ReLU."""
        check_shape("code", code, self.in_shape)
        return self.fc1(code.flatten(1))
