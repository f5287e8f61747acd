"""The objective of a prior over the indices of a quantizer's codes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import Batch
from ae.models.priors import PixelCNN
from ae.objectives.joint import Loss

Indices = Callable[[Float[Tensor, "b c h w"]], Int64[Tensor, "b h w"]]
"""Images -> indices of their codes."""


@dataclass(frozen=True)
class IndexLikelihood:
    """-log p of the indices of a batch's codes in nats per image, the mean over the batch; term: `prior/nats`.

    The autoencoder that gives the indices is not trained, and always computes in float32.
    """

    indices: Indices

    def __call__(self, prior: PixelCNN, batch: Batch, step: int) -> Loss:
        """The loss of `prior` on `batch`."""
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            index = self.indices(batch.images)
        nll = batch.mean(prior.negative_log_likelihood(index))
        return Loss(nll, {"prior/nats": nll.detach()})
