"""Likelihoods: the decoder's output as the parameters of a distribution over images.

The contract of a likelihood, an `nn.Module`, is

    name                        key under which the loss is logged
    in_nats                     whether `nll` is in nats per image, as a code's rate is
    channels(c) -> int          channels that the decoder gives for images of c channels
    mean(params) -> images      mean image [b c h w] in [0, 1]
    nll(params, images, mask)   negative log-likelihood [b]; with a mask, of the pixels where it is true
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ae.functional import at_least_float32, bernoulli_nll, comparable, gaussian_nll, squared_error, sum_over_pixels
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast2, Positive, Settings, check_unread, checked_arguments

Params = Float[Tensor, "b _ h w"]
Image = Float[Tensor, "b c h w"]
Mask = Bool[Tensor, "b #c h w"]

_LOG_SCALE_MIN = -7.0  # scale of 0.1 % of the pixel range; PixelCNN++ has the same bound


@runtime_checkable
class Likelihood(Protocol):
    """The contract above."""

    name: str
    in_nats: bool

    def channels(self, image_channels: int) -> int: ...
    def mean(self, params: Params) -> Image: ...
    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]: ...


class _OnePerPixel(nn.Module):
    """A likelihood with one parameter per pixel and channel, a logit whose sigmoid is the mean."""

    def channels(self, image_channels: int) -> int:
        """As many as the image has."""
        return image_channels

    def mean(self, params: Params) -> Image:
        """The sigmoid of the logits."""
        return params.sigmoid()


class SquaredError(_OnePerPixel):
    """Mean squared error per pixel, as an alternative to a likelihood."""

    name, in_nats = "mse", False

    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]:
        """The squared error, the mean over pixels."""
        return squared_error(self.mean(params), images, mask)


class BernoulliLikelihood(_OnePerPixel):
    """Independent Bernoulli pixels; grey pixels count as probabilities.

    Kingma & Welling 2014, appendix C.1, equation 11.
    """

    name, in_nats = "bernoulli", True

    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]:
        """In nats per image, the sum over pixels."""
        return bernoulli_nll(params, images, mask)


class GaussianLikelihood(_OnePerPixel):
    """Independent Gaussian pixels with one standard deviation, fixed or learned.

    Kingma & Welling 2014, appendix C.2. With `learned`, the deviation is a parameter that starts at `std` (Rybkin et
    al. 2021, sigma-VAE, section 3.1).
    """

    name, in_nats = "gaussian", True

    @checked_arguments
    def __init__(self, std: Positive[float] = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.std, self.learned = std, learned
        if learned:
            self.log_std = nn.Parameter(torch.tensor(math.log(std)))

    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]:
        """In nats per image, the sum over pixels."""
        if not self.learned:
            return gaussian_nll(self.mean(params), images, self.std, mask)
        mean, target = comparable(self.mean(params), images, mask)
        log_std = at_least_float32(self.log_std)
        constant = log_std + 0.5 * math.log(2 * math.pi)
        return sum_over_pixels(0.5 * ((target - mean) * (-log_std).exp()).square() + constant, mask)


class DiscretizedLogisticLikelihood(nn.Module):
    """Independent pixels of `levels` values with a logistic distribution integrated over each value's bin.

    Kingma et al. 2016, appendix; Salimans et al. 2017 (PixelCNN++), equation 2 with one component: the first and the
    last bin reach to minus and plus infinity. The decoder gives location and log scale of each pixel and channel, for
    pixels in [-1, 1]: [b 2*c h w], locations first.
    """

    name, in_nats = "discretized_logistic", True

    @checked_arguments
    def __init__(self, levels: AtLeast2[int] = 256) -> None:
        super().__init__()
        self.levels = levels

    def channels(self, image_channels: int) -> int:
        """Location and log scale of each channel."""
        return 2 * image_channels

    def mean(self, params: Params) -> Image:
        """The locations, clamped to the images' range."""
        location, _ = self._split(params)
        return ((location + 1) / 2).clamp(0, 1)

    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]:
        """In nats per image, the sum over pixels, which are rounded to the nearest of the `levels` values."""
        location, log_scale = self._split(at_least_float32(params))
        location, target = comparable(location, images, mask)
        value = (target * (self.levels - 1)).round() * (2 / (self.levels - 1)) - 1
        half, inverse = 1 / (self.levels - 1), (-log_scale).exp()
        upper, lower = (value - location + half) * inverse, (value - location - half) * inverse
        # log(sigmoid(upper) - sigmoid(lower)), stable in both tails: sigmoid(u) - sigmoid(l)
        # = sigmoid(u) sigmoid(-l) (1 - exp(l - u))
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log1mexp(2 * half * inverse)
        log_prob = torch.where(
            value < half - 1, F.logsigmoid(upper), torch.where(value > 1 - half, F.logsigmoid(-lower), inner)
        )
        return sum_over_pixels(-log_prob, mask)

    def _split(self, params: Params) -> tuple[Tensor, Tensor]:
        if params.shape[1] % 2:
            raise InputError(f"a discretized logistic has two parameters per channel, got {params.shape[1]} channels")
        location, log_scale = params.chunk(2, dim=1)
        return location, log_scale.clamp(min=_LOG_SCALE_MIN)


class CategoricalLikelihood(nn.Module):
    """Independent pixels of `levels` values with a probability for each.

    van den Oord et al. 2016 (PixelRNN), section 3.3. The decoder gives logits [b c*levels h w], the levels of the first
    channel first.
    """

    name, in_nats = "categorical", True

    @checked_arguments
    def __init__(self, levels: AtLeast2[int] = 256) -> None:
        super().__init__()
        self.levels = levels

    def channels(self, image_channels: int) -> int:
        """One logit for each level of each channel."""
        return self.levels * image_channels

    def mean(self, params: Params) -> Image:
        """The expected value."""
        value = torch.linspace(0, 1, self.levels, dtype=params.dtype, device=params.device)
        return torch.einsum("b c k h w, k -> b c h w", self._logits(params).softmax(2), value)

    def nll(self, params: Params, images: Image, mask: Mask | None = None) -> Float[Tensor, " b"]:
        """In nats per image, the sum over pixels, which are rounded to the nearest of the `levels` values."""
        logits = self._logits(at_least_float32(params))
        _, target = comparable(logits[:, :, 0], images, mask)
        level = (target * (self.levels - 1)).round().long()  # [b c h w]
        return sum_over_pixels(-logits.log_softmax(2).gather(2, level[:, :, None])[:, :, 0], mask)

    def _logits(self, params: Params) -> Float[Tensor, "b c k h w"]:
        if params.shape[1] % self.levels:
            raise InputError(f"a categorical has {self.levels} logits per channel, got {params.shape[1]} channels")
        return rearrange(params, "b (c k) h w -> b c k h w", k=self.levels)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, accurate at both ends (Maechler 2012)."""
    is_small = x < math.log(2)
    small, large = torch.where(is_small, x, 1.0), torch.where(is_small, 1.0, x)  # no infinite slope in either branch
    return torch.where(is_small, (-torch.expm1(-small)).log(), torch.log1p(-(-large).exp()))


LikelihoodName = Literal["mse", "bernoulli", "gaussian", "discretized-logistic", "categorical"]


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(Settings):
    """The choice of a likelihood, a base of the settings of an experiment's model."""

    likelihood: LikelihoodName = "mse"  # of the pixels
    std: Positive[float] | None = None  # standard deviation of the gaussian likelihood; none: learned

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "gaussian":
            choose = f"choose {type(self).__name__}.likelihood gaussian"
            check_unread(self, ["std"], f"by the likelihood {self.likelihood}: {choose}")

    def make_likelihood(self) -> Any:
        """The likelihood, a module under the contract above."""
        match self.likelihood:
            case "mse":
                return SquaredError()
            case "bernoulli":
                return BernoulliLikelihood()
            case "gaussian":
                return GaussianLikelihood(self.std or 1.0, learned=self.std is None)
            case "discretized-logistic":
                return DiscretizedLogisticLikelihood()
            case "categorical":
                return CategoricalLikelihood()
