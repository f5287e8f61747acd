"""Fully connected encoder."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from ae.models.decoders import DenseDecoder
from ae.models.encoders.base import ImageEncoder
from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_shape, checked_arguments


class DenseEncoder(ImageEncoder):
    """Fully connected layers, each followed by a ReLU, for small images of fixed size.

    Images [b *image_shape] in [0, 1] -> features [b widths[-1]]. Images are normalised by `mean` and `std`.
    Raises InputError for images of another shape, dtype or range.
    """

    @checked_arguments
    def __init__(
        self,
        image_shape: Sequence[Positive[int]] = (1, 28, 28),
        widths: Sequence[Positive[int]] = (400, 400),
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__(image_shape[0], mean, std)
        if not widths:
            raise InputError("an encoder needs at least one layer, got widths=()")
        self.image_shape, self.widths = tuple(image_shape), tuple(widths)
        sizes = (prod(self.image_shape), *widths)
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def mirror(self, out_channels: int = 1) -> DenseDecoder:
        """Build the decoder with these layers in reverse."""
        return DenseDecoder((out_channels, *self.image_shape[1:]), self.widths[::-1])

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features"]:
        """Images [b c h w] in [0, 1] -> the last layer's features."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _"]]:
        """Images [b c h w] in [0, 1] -> features of every layer."""
        x = self.normalised(images)
        check_shape("images", x, self.image_shape)
        x = x.flatten(1)
        features = []
        for layer in self.layers:
            x = layer(x).relu()
            features.append(x)
        return features

    def feature_shape(self, height: int, width: int) -> tuple[int]:  # type: ignore[override]
        """(features,), for images of `image_shape`."""
        return (self.widths[-1],)
