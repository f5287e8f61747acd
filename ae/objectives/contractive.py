"""Objective of the contractive autoencoder."""

from dataclasses import dataclass

from ae.data import Batch
from ae.models.autoencoder import Autoencoder
from ae.objectives.joint import Joint, Loss
from ae.utils.validation import AtLeast0, Positive, Settings


@dataclass(frozen=True)
class Contractive(Settings):
    """`Joint` plus the squared Frobenius norm of the Jacobian of the code by the encoder's input, mean over the batch.

    Rifai et al. 2011, equation 7; the norm is estimated by random projections (Hutchinson).
    """

    weight: AtLeast0[float] = 0.1  # of the squared norm
    projections: Positive[int] = 1  # random projections per image
    joint: Joint = Joint(classification=0.0)  # all other terms

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        from ae.objectives.jacobian import code_and_squared_norm

        if not self.weight:
            return self.joint(model, batch, step)
        corrupted, mask = self.joint.corrupted(batch.images)
        code, norm = code_and_squared_norm(model, corrupted, self.projections)
        loss = self.joint.of(model, batch, code, step, mask)
        terms = {**loss.terms, "jacobian": norm.detach()}
        return Loss(loss.total + self.weight * norm, terms, loss.counts, loss.weights)
