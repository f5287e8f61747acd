"""Pure functions: losses and divergences with a value per example, and their mean."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.distributions import Normal

from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import checks_range

LABEL = "label"
"""The name of the class target of a data set."""


def is_known(target: Shaped[Tensor, "b *shape"]) -> Bool[Tensor, " b"]:
    """Whether an example has a target: any value that is not missing, which is -1 for integers and NaN for floats."""
    known = ~target.isnan() if target.is_floating_point() else target >= 0
    return known.flatten(1).any(1) if target.ndim > 1 else known


def masked_mean(
    values: Float[Tensor, " b"], mask: Bool[Tensor, " b"] | None = None, count: Int64[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Average `values` where `mask` is true; 0 with zero gradient if the mask is empty.

    Of values of a shard or a part of a batch (`ae.utils.global_batch`), the average of the results over shards and
    parts is the mean over the global batch. `count` is the number of true values in the mask over all parts of the
    shard. Half precision is averaged in float32. Raises InputError for a mask without a count in a part of a batch.
    """
    values = at_least_float32(values)
    if mask is None:
        return values.sum() / global_batch.mean_count(len(values)) if global_batch.is_divided() else values.mean()
    if count is None:
        if global_batch.is_in_parts():
            raise InputError(
                "Recipe.micro_batch divides the batch, and a mean over a mask needs the mask's count over the whole "
                "batch: take it by batch.mean(values, target), or train without Recipe.micro_batch"
            )
        count = mask.sum()
    mean_count = torch.as_tensor(global_batch.mean_count(count))
    return torch.where(mask, values, 0).sum() / mean_count.clamp(min=global_batch.smallest_mean_count())


def squared_error(
    reconstruction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Squared error, averaged over the pixels of each image, or those where `mask` is true.

    Raises InputError if the shapes differ, as do all losses of images: only a mask of one channel is broadcast.
    """
    reconstruction, target = comparable(reconstruction, target, mask)
    return _mean_over_pixels((reconstruction - target).square(), mask)


def bernoulli_nll(
    logits: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """-log p(target | logits) in nats per image, summed over pixels; grey targets are probabilities.

    Kingma & Welling 2014, appendix C.1, equation 11.
    """
    logits, target = comparable(logits, target, mask)
    return sum_over_pixels(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), mask)


def gaussian_nll(
    reconstruction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    std: float = 1.0,
    mask: Bool[Tensor, "b #c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """-log N(target | reconstruction, std^2) in nats per image, summed over pixels.

    Kingma & Welling 2014, appendix C.2, with a fixed standard deviation.
    """
    reconstruction, target = comparable(reconstruction, target, mask)
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return sum_over_pixels(0.5 * ((target - reconstruction) / std).square() + constant, mask)


def cross_entropy(logits: Float[Tensor, "b classes"], labels: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """-log p(label | logits) in nats; 0 for the label -1 (unlabelled).

    Raises InputError for other shapes, labels that are not int64 and, outside `unchecked_range`, labels out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        got = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
        raise InputError(f"logits must be [b classes] and labels [b], got {got}")
    if labels.dtype != torch.int64:
        raise InputError(f"labels must be int64, got {_name(labels.dtype)}")
    if checks_range() and labels.numel():
        low, high = labels.aminmax()
        if low < -1 or high >= logits.shape[1]:
            valid = f"0 to {logits.shape[1] - 1}, or -1 for unlabelled: there are {logits.shape[1]} logits"
            raise InputError(f"labels must be {valid}; got {low} to {high}")
    return F.cross_entropy(at_least_float32(logits), labels, ignore_index=-1, reduction="none")


def adversarial(logits: Float[Tensor, " b"], real: bool) -> Float[Tensor, " b"]:
    """-log p(real | logits), or -log p(not real | logits), in nats (Goodfellow et al. 2014, equation 1).

    With real=True on generated images, this is the non-saturating loss of the generator (section 3).
    """
    logits = at_least_float32(logits)
    return F.softplus(-logits if real else logits)


def gradient_penalty(logits: Float[Tensor, " b"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Squared norm of the gradient of each logit by its image, differentiable (R1, Mescheder et al. 2018)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return at_least_float32(gradient).square().flatten(1).sum(1)


def kl_to_standard_normal(mean: Float[Tensor, "b *d"], std: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """KL(N(mean, std^2) || N(0, 1)) in nats, for each dimension (Kingma & Welling 2014, appendix B).

    Equal to `torch.distributions.kl_divergence`, of which the dispatch can't be compiled.
    """
    return 0.5 * (mean.square() + std.square() - 1) - std.log()


def kl_of_normals(q: Normal, p: Normal) -> Float[Tensor, "*b d"]:
    """KL(q || p) in nats, for each dimension; as `kl_to_standard_normal`, it can be compiled."""
    ratio = q.scale / p.scale
    return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()


def diagonal_gaussian(mean: Float[Tensor, "*b d"], log_variance: Float[Tensor, "*b d"]) -> Normal:
    """The Gaussian with independent dimensions, in at least float32.

    The log variance is limited to [-14, 14], so that the variance is neither 0 nor infinite in float32.
    """
    std = (0.5 * at_least_float32(log_variance).clamp(-14.0, 14.0)).exp()
    return Normal(at_least_float32(mean), std, validate_args=False)  # the training loop reports NaN


def free_bits(rates: Float[Tensor, "b latents"], nats: float) -> Float[Tensor, ""]:
    """Free bits: the sum over latents of max(nats, mean rate over the batch).

    Kingma et al. 2016, equation 15. The rate of a latent below `nats` has no gradient.
    """
    means = torch.stack([masked_mean(rate) for rate in rates.unbind(1)])
    return torch.where(global_batch.all_mean(means) > nats, means, nats).sum()


def at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Convert half precision to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_same_shape(output: Tensor, target: Tensor) -> None:
    """Raise InputError unless a decoder's output has its target's shape."""
    if output.shape != target.shape:
        raise InputError(
            f"output and target must have the same shape, got {list(output.shape)} and {list(target.shape)}: "
            "the decoder must give [b c h w], with the images' channels"
        )


def comparable(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convert output and target to at least float32; raises InputError for invalid shapes and dtypes."""
    check_same_shape(output, target)
    if not target.is_floating_point():
        raise InputError(f"the target must be floating-point, in [0, 1], got {_name(target.dtype)}: divide it by 255.0")
    if mask is not None:
        b, _, *size = target.shape
        if mask.dtype != torch.bool or tuple(mask.shape) not in {tuple(target.shape), (b, 1, *size)}:
            valid = f"bool {list(target.shape)}, or with one channel"
            raise InputError(f"the mask must be {valid}; got {_name(mask.dtype)} {list(mask.shape)}")
    return at_least_float32(output), at_least_float32(target)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sum_over_pixels(values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b #c h w"] | None) -> Float[Tensor, " b"]:
    """Sum over the pixels of each image, or over those where `mask` is true."""
    return (values if mask is None else torch.where(mask, values, 0)).flatten(1).sum(1)


def _mean_over_pixels(values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b #c h w"] | None) -> Float[Tensor, " b"]:
    if mask is None:
        return values.flatten(1).mean(1)
    return sum_over_pixels(values, mask) / mask.expand_as(values).flatten(1).sum(1).clamp(min=1)
