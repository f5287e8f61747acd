"""The code with the norm of its Jacobian by the images.

Never compiled, since what is compiled has no second derivatives. `torch.compiler.disable` imports the compiler, which
takes a second: so this module is imported where it is first used.
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

    Estimated without bias by random projections v, |J|^2 = E |v J|^2 for v ~ N(0, I) (Hutchinson), which are drawn
    `projections` times an image.
    """
    trains = torch.is_grad_enabled()
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        code = model.encode(images)
        norms = [_projected(images, code.mean, create_graph=trains) for _ in range(projections)]
        return code, masked_mean(torch.stack(norms).mean(0))


def _projected(
    images: Float[Tensor, "b c h w"], code: Float[Tensor, "b *code"], create_graph: bool
) -> Float[Tensor, " b"]:
    """|v J|^2 for one random v an image."""
    (gradient,) = torch.autograd.grad(code, images, normal_like(code), create_graph=create_graph, retain_graph=True)
    return gradient.square().flatten(1).sum(1)
