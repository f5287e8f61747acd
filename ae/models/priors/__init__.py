"""Priors over codes. A prior is a part of its bottleneck, and a module: what is learned in it is trained and saved.

log_prob(z) -> [b]         log density in nats, the sum over the dimensions of a code
sample(count) -> z         codes [count ...], on the prior's device
kl(posterior) -> [b ...]   optional: KL(posterior || prior) of each latent in closed form
"""

from ae.models.priors.mixture import GaussianMixture
from ae.models.priors.normal import StandardNormal, UniformSphere
from ae.models.priors.pixelcnn import PixelCNN
from ae.models.priors.prior import Prior, has_prior, prior_of
from ae.models.priors.top_down import TopDownGaussian

__all__ = [
    "GaussianMixture",
    "PixelCNN",
    "Prior",
    "StandardNormal",
    "TopDownGaussian",
    "UniformSphere",
    "has_prior",
    "prior_of",
]
