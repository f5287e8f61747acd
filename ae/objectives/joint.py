"""What one step minimises, and the objective that says most of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ae import distributed, losses
from ae.bottlenecks import Code
from ae.data import Batch
from ae.errors import InputError
from ae.losses import masked_mean
from ae.model import Autoencoder

Corruption = Callable[[Float[Tensor, "b c h w"]], tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b #c h w"] | None]]
"""Clean images -> (corrupted images, mask of the pixels that the loss is taken on, or None: all)."""


@dataclass
class Loss:
    """What one step minimises.

    total   scalar with gradient
    terms   detached, unweighted scalars, each a mean over examples
    counts  over how many examples a term is a mean, where it is not the whole batch
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    counts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Joint:
    """A weighted sum of reconstruction, rate, penalty and classification; a weight of zero skips its term.

    The reconstruction term is `mse`, the squared error, mean over pixels and batch; or in nats per image, summed over
    pixels, mean over the batch: `bernoulli`, `gaussian`. The target is the clean image in [0, 1]. Classification is the
    cross-entropy of the model's one head in nats, mean over the batch's labelled images. What a bottleneck tells of
    itself (`Code.stats`) is among the terms. Training and evaluation reduce alike. Raises InputError where the model
    lacks what a term needs.
    """

    likelihood: Literal["mse", "bernoulli", "gaussian"] = "mse"  # mse per pixel; bernoulli, gaussian: nats per image
    corruption: Corruption | None = None
    reconstruction: float = 20.0  # weight of the reconstruction term
    rate: float = 0.0  # weight of the code's rate in nats (beta); needs a likelihood in nats
    rate_warmup: int = 0  # steps in which the rate's weight grows from 0, linearly
    free_bits: float = 0.0  # nats a latent that cost nothing; needs a bottleneck with a posterior
    penalty: float = 1.0  # weight of the bottleneck's own penalty
    classification: float = 1.0  # weight of the cross-entropy
    std: float = 1.0  # standard deviation of the gaussian likelihood

    def __post_init__(self) -> None:
        for name in ("reconstruction", "rate", "penalty", "classification"):
            if not getattr(self, name) >= 0:
                raise InputError(f"weight {name} must be 0 or more, got {getattr(self, name)}")
        if not self.reconstruction and not self.classification:
            raise InputError("nothing to learn: reconstruction and classification are both 0")
        if not self.std > 0:
            raise InputError(f"std must be positive, got {self.std}")
        if self.rate_warmup < 0 or not self.free_bits >= 0:
            given = f"{self.rate_warmup} and {self.free_bits}"
            raise InputError(f"rate_warmup and free_bits must be 0 or more, got {given}")
        if self.rate > 0 and self.likelihood == "mse":
            raise InputError("a rate is in nats: with rate > 0 choose likelihood bernoulli or gaussian, not mse")

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        images, mask = batch.images, None
        if self.corruption is not None:
            images, mask = self.corruption(images)
        return self.of(model, batch, model.encode(images), step, mask)

    def of(
        self, model: Autoencoder, batch: Batch, code: Code, step: int, mask: Bool[Tensor, "b #c h w"] | None = None
    ) -> Loss:
        """The loss where the code is known: what other objectives add their own term to."""
        total = code.penalty.new_zeros(())
        terms: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        if self.reconstruction:
            value = masked_mean(self._reconstruction(model.pixels(code.z, batch.images.shape[-2:]), batch.images, mask))
            total, terms[self.likelihood] = total + self.reconstruction * value, value.detach()
        if self.rate:
            value = masked_mean(code.rate)
            cost = self._rate_weight(step) * (self._free_rate(code) if self.free_bits else value)
            total, terms["rate"] = total + cost, value.detach()
        if self.penalty:
            value = masked_mean(code.penalty)
            total, terms["penalty"] = total + self.penalty * value, value.detach()
        if self.classification:
            logits, labelled = only_head(model.classify(code)), batch.labels >= 0
            value = masked_mean(losses.cross_entropy(logits, batch.labels), labelled)
            total, terms["cross_entropy"] = total + self.classification * value, value.detach()
            terms["accuracy"] = masked_mean((logits.argmax(1) == batch.labels).float(), labelled)
            counts = dict.fromkeys(
                ("cross_entropy", "accuracy"), torch.as_tensor(distributed.mean_count(labelled.sum()))
            )
        return Loss(total, {**code.stats, **terms}, counts)

    def _rate_weight(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.rate_warmup) if self.rate_warmup else self.rate

    def _free_rate(self, code: Code) -> Float[Tensor, ""]:
        if not isinstance(code.posterior, Normal):
            raise InputError("free_bits needs a bottleneck with a Gaussian posterior")
        prior = Normal(torch.zeros_like(code.mean), torch.ones_like(code.mean), validate_args=False)
        return losses.free_bits(kl_divergence(code.posterior, prior), self.free_bits)

    def _reconstruction(self, pixels: Tensor, target: Tensor, mask: Tensor | None) -> Float[Tensor, " b"]:
        match self.likelihood:
            case "mse":
                return losses.squared_error(pixels.sigmoid(), target, mask)
            case "bernoulli":
                return losses.bernoulli_nll(pixels, target, mask)
            case "gaussian":
                return losses.gaussian_nll(pixels.sigmoid(), target, self.std, mask)


def only_head(logits: dict[str, Float[Tensor, "b classes"]]) -> Float[Tensor, "b classes"]:
    """The logits of the one head; raises InputError where there is none, or more than one."""
    if len(logits) != 1:
        heads = ", ".join(logits) or "none"
        raise InputError(f"classification needs a model with exactly one head, got {heads}; else set its weight to 0")
    return next(iter(logits.values()))
