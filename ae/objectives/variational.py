"""Variational objectives and penalties on the distribution of codes: IWAE, beta-TC-VAE, MMD."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from ae.data import Batch
from ae.functional import at_least_float32, masked_mean
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.models.priors import has_prior, prior_of
from ae.objectives.joint import Joint, Loss, likelihood_of
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Positive, Settings

_RECONSTRUCTION = Joint(reconstruction=1.0, classification=0.0)


@dataclass(frozen=True)
class IWAE(Settings):
    """Importance-weighted bound on log p(x) with k samples; the ELBO for k = 1.

    Burda et al. 2016, equation 8: -log 1/k sum_i p(x, z_i) / q(z_i | x), nats per image, mean over the batch.
    """

    samples: Positive[int] = 5  # k

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        code = model.encode(batch.images)
        weights = log_weights(model, batch.images, code, self.samples)
        bound = masked_mean(weights.logsumexp(0) - math.log(self.samples))
        terms = {"iwae": bound.detach(), "elbo": masked_mean(weights.detach().mean(0))}
        return Loss(-bound, {**code.stats, **terms, "rate": masked_mean(code.rate.detach())})


def log_weights(model: Autoencoder, images: Float[Tensor, "b c h w"], code: Code, samples: int) -> Float[Tensor, "k b"]:
    """log p(x, z_i) - log q(z_i | x) of `samples` codes drawn from each image's posterior, in nats."""
    if code.posterior is None or not code.posterior.has_rsample:
        raise InputError("this objective needs a bottleneck with a posterior that has rsample, such as Gaussian")
    z = code.posterior.rsample(torch.Size([samples]))
    log_q = code.posterior.log_prob(z)  # [k b], or of each latent [k b ...]
    if log_q.ndim > 2:
        log_q = log_q.flatten(2).sum(2)
    z = rearrange(z, "k b ... -> (k b) ...")
    params = model.decode_params(z, images.shape[-2:])
    repeated = repeat(images, "b c h w -> (k b) c h w", k=samples)
    log_joint = prior_of(model.bottleneck).log_prob(z) - likelihood_of(model, in_nats=True).nll(params, repeated)
    return rearrange(log_joint, "(k b) -> k b", k=samples) - log_q


@dataclass(frozen=True)
class BetaTC(Settings):
    """`Joint` plus the decomposed rate of a VAE, with a weight on the total correlation.

    Chen et al. 2018, equation 2: mutual information + beta * total correlation + dimension-wise KL, estimated by
    minibatch-weighted sampling (appendix C.1). In several processes, the minibatch is that of each process.
    """

    images: Positive[int]  # number of training images
    beta: AtLeast0[float] = 6.0  # weight of the total correlation
    joint: Joint = _RECONSTRUCTION  # all other terms

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        images, mask = self.joint.corrupted(batch.images)
        code = model.encode(images)
        loss = self.joint.of(model, batch, code, step, mask)
        parts = self.parts(model, code)
        total = loss.total + parts["mutual_information"] + self.beta * parts["total_correlation"]
        detached = {name: value.detach() for name, value in parts.items()}
        return Loss(total + parts["dimension_wise_kl"], {**loss.terms, **detached}, loss.counts, loss.weights)

    def parts(self, model: Autoencoder, code: Code) -> dict[str, Float[Tensor, ""]]:
        """The three parts, in nats per image; their sum estimates the rate."""
        posterior = _posterior(code)
        log_q = Normal(posterior.mean[None], posterior.stddev[None], validate_args=False).log_prob(code.z[:, None])
        log_q_given_x = posterior.log_prob(code.z).sum(1)
        log_count = math.log(self.images * len(code.z)) if len(code.z) else 0.0
        aggregate = log_q.sum(2).logsumexp(1) - log_count  # log q(z)
        product = (log_q.logsumexp(1) - log_count).sum(1)  # sum of log q(z_j)
        return {
            "mutual_information": masked_mean(log_q_given_x - aggregate),
            "total_correlation": masked_mean(aggregate - product),
            "dimension_wise_kl": masked_mean(product - prior_of(model.bottleneck).log_prob(code.z)),
        }


@dataclass(frozen=True)
class MMD(Settings):
    """`Joint` plus the maximum mean discrepancy between the batch's codes and the bottleneck's prior, or N(0, I).

    WAE-MMD (Tolstikhin et al. 2018, algorithm 2), InfoVAE. Unbiased estimate with inverse multiquadratic kernels of
    several widths. Any bottleneck is valid. In several processes, over the codes of each process.
    """

    weight: AtLeast0[float] = 10.0  # of the discrepancy
    joint: Joint = _RECONSTRUCTION  # all other terms

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        images, mask = self.joint.corrupted(batch.images)
        code = model.encode(images)
        loss = self.joint.of(model, batch, code, step, mask)
        if not self.weight:
            return loss
        z, bottleneck = at_least_float32(code.z.flatten(1)), model.bottleneck
        samples = prior_of(bottleneck).sample(len(z)).to(z) if has_prior(bottleneck) else torch.randn_like(z)
        distance = mmd(z, samples)
        terms = {**loss.terms, "mmd": distance.detach()}
        return Loss(loss.total + self.weight * distance, terms, loss.counts, loss.weights)


def mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Unbiased estimate of the squared maximum mean discrepancy of two samples; 0 if either has fewer than two points.

    Gretton et al. 2012, equation 3. Kernel: sum over s of C / (C + |x - y|^2), C = 2 d s, s from 0.1 to 10.
    """
    n, m, d = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        return x.sum() * 0

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).square().sum(2)
        return torch.stack([2 * d * s / (2 * d * s + squared) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]).sum(0)

    within_x = (kernel(x, x).sum() - kernel(x, x).diagonal().sum()) / (n * (n - 1))
    within_y = (kernel(y, y).sum() - kernel(y, y).diagonal().sum()) / (m * (m - 1))
    return within_x + within_y - 2 * kernel(x, y).mean()


def _posterior(code: Code) -> Normal:
    if not isinstance(code.posterior, Normal):
        raise InputError("beta-TC needs a bottleneck with a posterior of independent latents, such as Gaussian")
    return code.posterior
