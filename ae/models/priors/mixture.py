"""A learned mixture of Gaussians as a prior."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.functional import at_least_float32
from ae.utils.validation import AtLeast0, Positive, check_shape, checked_arguments


class GaussianMixture(nn.Module):
    """A learned mixture of Gaussians with diagonal covariances over latent vectors."""

    @checked_arguments
    def __init__(self, latent: Positive[int], components: Positive[int] = 10) -> None:
        super().__init__()
        self.latent, self.components = latent, components
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent))
        self.log_std = nn.Parameter(torch.zeros(components, latent))

    def log_prob(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, " b"]:
        """Log density in nats."""
        check_shape("z", z, (self.latent,))
        standard = (at_least_float32(z)[:, None] - self.means) * (-self.log_std).exp()  # [b components latent]
        each = -(0.5 * (standard.square() + math.log(2 * math.pi)) + self.log_std).sum(2)
        return (self.logits.log_softmax(0) + each).logsumexp(1)

    @checked_arguments
    def sample(self, count: AtLeast0[int]) -> Float[Tensor, "b latent"]:
        """`count` codes, each from a component drawn by its weight."""
        component = torch.multinomial(self.logits.softmax(0), max(count, 1), replacement=True)[:count]
        noise = torch.randn(count, self.latent, device=self.means.device)
        return self.means[component] + self.log_std[component].exp() * noise
