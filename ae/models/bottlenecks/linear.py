"""Bottlenecks that are functions: nothing is drawn, and nothing is rounded."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.models.bottlenecks.code import Code
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Positive, check_shape, checked_arguments

_SAME = 1e-6  # sine of the angle below which two directions are the same, or opposite


class Identity(nn.Module):
    """No bottleneck: the features are the code."""

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b ...] -> the same as a Code."""
        return Code.deterministic(features)

    def expand(self, z: Float[Tensor, "b *features"]) -> Float[Tensor, "b *features"]:
        """z [b ...] -> the same."""
        return z


class Dense(nn.Module):
    """A latent vector of `latent` numbers: a linear map from all features, and a linear map with a ReLU back.

    The ReLU gives the decoder what an encoder's last stage gives it: features that are not negative.
    Raises InputError for features of another shape than `in_shape`.
    """

    @checked_arguments
    def __init__(self, in_shape: Sequence[Positive[int]], latent: Positive[int]) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.latent = latent
        self.project_in = nn.Linear(math.prod(in_shape), latent)
        self.project_out = nn.Linear(latent, math.prod(in_shape))

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent]."""
        check_shape("features", features, self.in_shape)
        return Code.deterministic(self.project_in(features.flatten(1)))

    def expand(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b *features"]:
        """z [b latent] -> features [b *in_shape]."""
        check_shape("z", z, (self.latent,))
        return self.project_out(z).relu().unflatten(1, self.in_shape)


class Sphere(Dense):
    """A latent vector of length 1: as `Dense`, divided by its norm, so that codes differ in direction alone.

    Its prior is the uniform distribution on the sphere; codes are mixed along great circles.
    """

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent] on the unit sphere."""
        check_shape("features", features, self.in_shape)
        return Code.deterministic(self.project(self.project_in(features.flatten(1))))

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b latent"]:
        """`count` codes, uniform on the sphere (Muller 1959)."""
        return self.project(torch.randn(count, self.latent, device=self.project_out.weight.device))

    def project(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """z [b latent] -> the nearest point of the sphere; of 0, to which all are as near, the first axis's."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        largest = z.detach().abs().amax(1, keepdim=True)
        first_axis = torch.cat([torch.ones_like(z[:, :1]), torch.zeros_like(z[:, 1:])], dim=1)
        scaled = torch.where(largest > 0, z / torch.where(largest > 0, largest, 1), first_axis)  # no square overflows
        return scaled / scaled.norm(dim=1, keepdim=True)

    def mix(
        self, one: Float[Tensor, "b latent"], other: Float[Tensor, "b latent"], fraction: float
    ) -> Float[Tensor, "b latent"]:
        """The point at `fraction` of the shortest way along the sphere (Shoemake 1985); equal points stay.

        Between opposite points all ways are as short: it is by the axis that is most nearly perpendicular to them.
        """
        one, other = self.project(one), self.project(other)
        angle = 2 * torch.atan2((one - other).norm(dim=1, keepdim=True), (one + other).norm(dim=1, keepdim=True))
        onward = other - (one * other).sum(1, keepdim=True) * one
        axis = F.one_hot(one.abs().argmin(1), self.latent).to(one.dtype)
        aside = axis - (one * axis).sum(1, keepdim=True) * one
        direction = torch.where(onward.norm(dim=1, keepdim=True) > _SAME, onward, aside)
        tangent = F.normalize(direction, dim=1)
        tangent = F.normalize(tangent - (one * tangent).sum(1, keepdim=True) * one, dim=1)  # what rounding has left
        return self.project((fraction * angle).cos() * one + (fraction * angle).sin() * tangent)


class TopK(Dense):
    """A sparse latent vector: as `Dense`, of which the `k` numbers of largest magnitude are kept, the others 0.

    Makhzani & Frey 2014 (k-sparse autoencoders), with magnitudes in the place of values. Each latent is normalised
    over the batch before (Ioffe & Szegedy 2015, without scale or shift), so that all are as likely to be among the
    largest: otherwise most are never chosen, have no gradient, and die. `stats`: the fraction of latents that some
    image of the batch uses.
    """

    @checked_arguments
    def __init__(self, in_shape: Sequence[Positive[int]], latent: Positive[int], k: Positive[int]) -> None:
        super().__init__(in_shape, latent)
        if k > latent:
            raise InputError(f"k must be at most the {latent} latents, got {k}")
        self.k = k
        self.norm = nn.BatchNorm2d(latent, affine=False)

    def forward(self, features: Float[Tensor, "b *features"]) -> Code:
        """Features [b *in_shape] -> Code with z [b latent], `k` of each not 0."""
        check_shape("features", features, self.in_shape)
        z = self.project(self._normalised(self.project_in(features.flatten(1))))
        code = Code.deterministic(z)
        images_using = distributed.all_sum((z.detach() != 0).sum(0))
        code.stats["used"] = (images_using > 0).float().mean()
        return code

    def project(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """z [b latent] -> the same with the `k` numbers of largest magnitude, the others 0."""
        kept = z.abs().topk(self.k, dim=1).indices
        return torch.zeros_like(z).scatter(1, kept, z.gather(1, kept))

    def _normalised(self, dense: Float[Tensor, "b latent"]) -> Float[Tensor, "b latent"]:
        """Each latent with mean 0 and variance 1 over the batch; one image has none: by the moving averages."""
        x = dense[:, :, None, None]
        if distributed.global_count(len(x)) < 2:
            x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            x = self.norm(x)
        return x[:, :, 0, 0]
