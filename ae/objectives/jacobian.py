"""The code and the norm of its Jacobian with respect to the images.

Excluded from compilation, since compiled functions have no second derivatives. `torch.compiler.disable` imports the
compiler, which takes a second: this module is therefore imported lazily.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ae.functional import masked_mean
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.utils.seeding import normal_like


@torch.compiler.disable
def code_and_squared_norm(
    model: Autoencoder, images: Float[Tensor, "b c h w"], projections: int
) -> tuple[Code, Float[Tensor, ""]]:
    """The code of `images`, and the squared Frobenius norm of the Jacobian of its mean, averaged over the batch.

    Unbiased estimate by `projections` random vectors v per image: |J|^2 = E |v J|^2 for v ~ N(0, I) (Hutchinson).
    """
    is_training = torch.is_grad_enabled()
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        code = model.encode(images)
        norms = [_projected_norm(images, code.mean, create_graph=is_training) for _ in range(projections)]
        return code, masked_mean(torch.stack(norms).mean(0))


def _projected_norm(
    images: Float[Tensor, "b c h w"], code: Float[Tensor, "b *code"], create_graph: bool
) -> Float[Tensor, " b"]:
    """|v J|^2 for a random v per image."""
    (gradient,) = torch.autograd.grad(code, images, normal_like(code), create_graph=create_graph, retain_graph=True)
    return gradient.square().flatten(1).sum(1)
