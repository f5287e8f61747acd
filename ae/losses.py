"""Losses: pure functions from a batch to one value per example, and the one function that averages them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ae import distributed


def masked_mean(values: Float[Tensor, " b"], mask: Bool[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
    """The mean of `values` where `mask` is true; 0, with a gradient of 0, where it never is.

    In training in several processes, over the whole batch: the mean of what the processes get is that mean.
    """
    if mask is None:
        return values.mean() if distributed.world() == 1 else values.sum() / distributed.mean_count(len(values))
    count = torch.as_tensor(distributed.mean_count(mask.sum()))
    return torch.where(mask, values, 0).sum() / count.clamp(min=1 / distributed.world())


def squared_error(
    reconstruction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """The mean over an image's pixels, or those where `mask` is true, of (reconstruction - target)^2."""
    return _mean_over_pixels((reconstruction - target).square(), mask)


def bernoulli_nll(
    logits: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """-log p(target | logits) in nats per image, summed over pixels; grey targets count as probabilities.

    Kingma & Welling 2014, appendix C.1, equation 11.
    """
    return _sum_over_pixels(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), mask)


def gaussian_nll(
    reconstruction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    std: float = 1.0,
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """-log N(target | reconstruction, std^2) in nats per image, summed over pixels.

    Kingma & Welling 2014, appendix C.2, with a fixed standard deviation.
    """
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return _sum_over_pixels(0.5 * ((target - reconstruction) / std).square() + constant, mask)


def cross_entropy(logits: Float[Tensor, "b classes"], labels: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """-log p(label | logits) in nats; 0 where the label is -1, unlabelled."""
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")


def adversarial(logits: Float[Tensor, " b"], real: bool) -> Float[Tensor, " b"]:
    """-log p(real | logits), or -log p(not real | logits), in nats (Goodfellow et al. 2014, equation 1).

    For a generator it is the first of these on what it has made: the form that does not saturate (their section 3).
    """
    return F.softplus(-logits if real else logits)


def gradient_penalty(logits: Float[Tensor, " b"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The squared norm of each logit's gradient by its image; has a gradient itself (Mescheder et al. 2018, R1)."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.square().flatten(1).sum(1)


def free_bits(rates: Float[Tensor, "b latents"], nats: float) -> Float[Tensor, ""]:
    """The rate of a batch, of which `nats` of each latent cost nothing: sum over latents of max(nats, mean rate).

    Kingma et al. 2016, equation 15; a latent that carries less than that is not pushed to carry nothing.
    """
    means = torch.stack([masked_mean(of_one) for of_one in rates.unbind(1)])
    return torch.where(distributed.averaged(means) > nats, means, nats).sum()


def _sum_over_pixels(values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b #c h w"] | None) -> Float[Tensor, " b"]:
    return (values if mask is None else torch.where(mask, values, 0)).flatten(1).sum(1)


def _mean_over_pixels(values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b #c h w"] | None) -> Float[Tensor, " b"]:
    if mask is None:
        return values.flatten(1).mean(1)
    return _sum_over_pixels(values, mask) / mask.expand_as(values).flatten(1).sum(1).clamp(min=1)
