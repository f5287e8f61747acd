"""Hyperspherical bottleneck: a latent vector of unit length."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.linear import Dense
from ae.models.priors import UniformSphere
from ae.utils.validation import Positive, check_shape, checked_arguments

_PARALLEL = 1e-6  # sine of the angle below which two directions count as equal or opposite


class Sphere(Dense):
    """`Dense` with the latent vector divided by its norm.

    The prior is the uniform distribution on the unit sphere. Interpolation follows great circles.
    """

    @checked_arguments
    def __init__(self, in_shape: Sequence[Positive[int]], latent: Positive[int]) -> None:
        super().__init__(in_shape, latent, UniformSphere(latent))

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent] on the unit sphere."""
        check_shape("features", features, self.in_shape)
        return Code.deterministic(self.project(self.project_in(features.flatten(1))))

    def project(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """z [b latent] -> the nearest point on the sphere; the first basis vector for z = 0."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        largest = z.detach().abs().amax(1, keepdim=True)
        first_axis = torch.cat([torch.ones_like(z[:, :1]), torch.zeros_like(z[:, 1:])], dim=1)
        scaled = torch.where(
            largest > 0, z / torch.where(largest > 0, largest, 1), first_axis
        )  # so that the squares do not overflow
        return scaled / scaled.norm(dim=1, keepdim=True)

    def mix(
        self, start: Float[Tensor, "b latent"], end: Float[Tensor, "b latent"], fraction: float
    ) -> Float[Tensor, "b latent"]:
        """Spherical linear interpolation at `fraction` from `start` to `end` (slerp, Shoemake 1985).

        Between opposite points, the path leads through the basis vector that is most nearly perpendicular to them.
        """
        start, end = self.project(start), self.project(end)
        angle = 2 * torch.atan2((start - end).norm(dim=1, keepdim=True), (start + end).norm(dim=1, keepdim=True))
        towards = end - (start * end).sum(1, keepdim=True) * start
        axis = F.one_hot(start.abs().argmin(1), self.latent).to(start.dtype)
        perpendicular = axis - (start * axis).sum(1, keepdim=True) * start
        direction = torch.where(towards.norm(dim=1, keepdim=True) > _PARALLEL, towards, perpendicular)
        tangent = F.normalize(direction, dim=1)
        tangent = F.normalize(
            tangent - (start * tangent).sum(1, keepdim=True) * start, dim=1
        )  # again, against rounding
        return self.project((fraction * angle).cos() * start + (fraction * angle).sin() * tangent)
