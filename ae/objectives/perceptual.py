"""Distance of images by the features of an encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.functional import at_least_float32
from ae.utils.errors import InputError


class PerceptualDistance(nn.Module):
    """Squared difference of normalised features, summed over the stages of a frozen encoder.

    Zhang et al. 2018 (LPIPS), equation 1, with weights of 1. The encoder has `features(images)`, such as that of a run,
    or a `TimmEncoder`. A weight is not trained, and the mode stays evaluation; gradients flow to the images.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(encoder, "features", None)):
            raise InputError(
                f"a perceptual distance needs an encoder with features(images), got {type(encoder).__name__}"
            )
        self.encoder = encoder.requires_grad_(False).eval()

    def forward(self, first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [0, 1]; the gradient is that of the first."""
        with torch.no_grad():
            reference = self.encoder.features(second)  # type: ignore[operator]
        distance = torch.zeros(len(first), device=first.device)
        for ours, theirs in zip(self.encoder.features(first), reference, strict=True):  # type: ignore[operator]
            difference = _unit(ours) - _unit(theirs)
            distance = distance + difference.square().sum(1).flatten(1).mean(1)
        return distance


def _unit(features: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
    """Features of norm 1 at each position; of vectors, each."""
    return F.normalize(at_least_float32(features), dim=1, eps=1e-10)
