"""Priors without parameters: the standard normal distribution, and the uniform distribution on a sphere."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from ae.functional import at_least_float32, kl_to_standard_normal
from ae.utils.validation import AtLeast0, Positive, check_shape, checked_arguments


class StandardNormal(nn.Module):
    """N(0, I) over codes [b *shape]."""

    zero: Tensor

    @checked_arguments
    def __init__(self, shape: Sequence[Positive[int]]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # its device is where samples are drawn; created on the CPU also where a model is built on the meta device
        self.register_buffer("zero", torch.zeros((), device="cpu"), persistent=False)

    def log_prob(self, z: Float[Tensor, "b *code"]) -> Float[Tensor, " b"]:
        """Log density in nats."""
        z = at_least_float32(z)
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b *code"]:
        """`count` codes."""
        return torch.randn(count, *self.shape, device=self.zero.device)

    def kl(self, posterior: Normal) -> Float[Tensor, "b *code"]:
        """KL(posterior || N(0, 1)) of each latent in nats (Kingma & Welling 2014, appendix B)."""
        return kl_to_standard_normal(posterior.mean, posterior.stddev)


class UniformSphere(nn.Module):
    """The uniform distribution on the unit sphere of `latent` dimensions."""

    zero: Tensor

    @checked_arguments
    def __init__(self, latent: Positive[int]) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("zero", torch.zeros((), device="cpu"), persistent=False)

    def log_prob(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, " b"]:
        """Log density in nats with respect to the sphere's surface area."""
        check_shape("z", z, (self.latent,))
        log_area = math.log(2) + self.latent / 2 * math.log(math.pi) - math.lgamma(self.latent / 2)
        return at_least_float32(z).new_full((len(z),), -log_area)

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b latent"]:
        """`count` codes (Muller 1959)."""
        z = torch.randn(count, self.latent, device=self.zero.device)
        return z / z.norm(dim=1, keepdim=True)
