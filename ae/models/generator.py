"""A generator: a decoder of noise, as in a generative adversarial network."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ae.functional import at_least_float32
from ae.models.likelihoods import BernoulliLikelihood
from ae.models.priors import StandardNormal
from ae.utils.errors import InputError
from ae.utils.validation import Positive, checked_arguments


class Generator(nn.Module):
    """Noise [b latent] of N(0, I) -> linear layer -> features [b *features] -> decoder -> images.

    The features are normalised by batch norm, then ReLU (Radford et al. 2016). The decoder's output is the logit of
    each pixel.
    """

    @checked_arguments
    def __init__(self, latent: Positive[int], features: Sequence[Positive[int]], decoder: nn.Module) -> None:
        super().__init__()
        self.latent, self.features = latent, tuple(features)
        self.prior = StandardNormal((latent,))
        self.project = nn.Sequential(
            nn.Linear(latent, math.prod(self.features)),
            nn.Unflatten(1, self.features),
            nn.BatchNorm2d(self.features[0]),
            nn.ReLU(),
        )
        self.decoder = decoder
        self.likelihood = BernoulliLikelihood()
        self.image_shape: tuple[int, ...] | None = None  # [c h w] of the training images, if known

    def forward(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b c h w"]:
        """Noise [b latent] -> images in [0, 1], of the decoder's size."""
        return self.likelihood.mean(at_least_float32(self.decoder(self.project(z))))

    def sample(self, count: int, size: Sequence[int] | None = None) -> Float[Tensor, "n c h w"]:
        """Draw `count` images, cropped to `size` = (height, width); default: that of the training images, if known."""
        images = self(self.prior.sample(count))
        if size is None and self.image_shape is not None:
            size = self.image_shape[1:]
        if size is None:
            return images
        if images.shape[-2] < size[0] or images.shape[-1] < size[1]:
            raise InputError(f"the decoder gives {list(images.shape[-2:])} pixels, fewer than the image's {list(size)}")
        return images[..., : size[0], : size[1]]
