"""The contractive autoencoder's objective."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ae.bottlenecks import Code
from ae.data import Batch
from ae.losses import masked_mean
from ae.model import Autoencoder
from ae.objectives.joint import Joint, Loss
from ae.seeding import normal_like
from ae.validation import AtLeast0, Positive, Settings


@dataclass(frozen=True)
class Contractive(Settings):
    """Adds the squared Frobenius norm of the Jacobian of the code by what the encoder sees, mean over the batch.

    Rifai et al. 2011, equation 7; estimated without bias by random projections v, |J|^2 = E |v J|^2 for v ~ N(0, I)
    (Hutchinson), one an image and `projections` times.
    """

    weight: AtLeast0[float] = 0.1  # of the squared norm
    projections: Positive[int] = 1  # an image, of which the norm is estimated
    joint: Joint = Joint(classification=0.0)  # all other terms

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        if not self.weight:
            return self.joint(model, batch, step)
        corrupted, mask = self.joint.corrupted(batch.images)
        code, norm = self._code_and_norm(model, corrupted)
        loss = self.joint.of(model, batch, code, step, mask)
        terms = {**loss.terms, "jacobian": norm.detach()}
        return Loss(loss.total + self.weight * norm, terms, loss.counts, loss.weights)

    @torch.compiler.disable  # what is compiled has no second derivatives
    def _code_and_norm(self, model: Autoencoder, corrupted: Float[Tensor, "b c h w"]) -> tuple[Code, Float[Tensor, ""]]:
        trains = torch.is_grad_enabled()
        with torch.enable_grad():
            images = corrupted.detach().requires_grad_()
            code = model.encode(images)
            return code, masked_mean(self._squared_norm(images, code.mean, create_graph=trains))

    def _squared_norm(
        self, images: Float[Tensor, "b c h w"], code: Float[Tensor, "b *code"], create_graph: bool
    ) -> Float[Tensor, " b"]:
        norms = []
        for _ in range(self.projections):
            (gradient,) = torch.autograd.grad(
                code, images, normal_like(code), create_graph=create_graph, retain_graph=True
            )
            norms.append(gradient.square().flatten(1).sum(1))
        return torch.stack(norms).mean(0)
