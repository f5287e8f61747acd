"""Fully connected decoder."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments


class DenseDecoder(nn.Module):
    """Fully connected layers with ReLUs between them.

    Features [b widths[0]] -> pixel logits [b *image_shape]. Raises InputError for features of another size.
    """

    @checked_arguments
    def __init__(
        self, image_shape: Sequence[Positive[int]] = (1, 28, 28), widths: Sequence[Positive[int]] = (400, 400)
    ) -> None:
        super().__init__()
        if not widths:
            raise InputError("a decoder needs at least one layer, got widths=()")
        self.image_shape, self.widths = tuple(image_shape), tuple(widths)
        sizes = (*widths, prod(self.image_shape))
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, features: Float[Tensor, "b features"]) -> Float[Tensor, "b c h w"]:
        """Features [b widths[0]] -> pixel logits; their sigmoid is the image."""
        check_shape("features", features, self.widths[:1])
        first, *rest = self.layers
        x = first(features)
        for layer in rest:
            x = layer(x.relu())
        return x.unflatten(1, self.image_shape)
