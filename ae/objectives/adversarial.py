"""Reconstruction by likelihood, perceptual distance, and a discriminator of patches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.data import Batch
from ae.functional import at_least_float32
from ae.models.autoencoder import Autoencoder
from ae.objectives.joint import Joint, Loss
from ae.objectives.perceptual import PerceptualDistance
from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Settings, check_unread

_LARGEST = 1e4  # adaptive weight


@dataclass(frozen=True)
class AdversarialConfig(Settings):
    """Weights of the terms of `PerceptualAdversarial`."""

    perceptual: AtLeast0[float] = 1.0  # weight of the perceptual distance
    adversarial: AtLeast0[float] = 0.8  # weight of the discriminator's verdict, times the adaptive weight
    adaptive: bool = True  # scale the verdict's gradient to that of the reconstruction
    start: AtLeast0[int] = 1000  # step from which the verdict counts; the discriminator is trained from the first step

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adversarial:
            check_unread(self, ["adaptive", "start"], "where the verdict never counts: give adversarial a weight")


class PerceptualAdversarial(nn.Module):
    """`Joint` plus a perceptual distance and the verdict of a discriminator of patches, which is trained in turn.

    Esser et al. 2021 (VQGAN), equations 5 to 7; the hinge losses are those of Lim & Ye 2017. The adaptive weight is the
    norm of the gradient of reconstruction and perceptual distance by the decoder's last weight, over that of the
    verdict, of each part of a batch. In evaluation, the loss is that of `joint` (default: reconstruction only).

    Terms, beside those of `joint`: `perceptual`; `adversarial`, the mean negated logit of reconstructions;
    `adaptive_weight`; `logit_real` and `logit_fake`, the discriminator's mean logits before its update.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        perceptual: PerceptualDistance | None = None,
        joint: Joint | None = None,
        config: AdversarialConfig | None = None,
    ) -> None:
        super().__init__()
        config = config or AdversarialConfig()
        if perceptual is None and config.perceptual:
            raise InputError(
                "a weight of the perceptual distance needs a PerceptualDistance: give it, or a weight of 0"
            )
        self.discriminator, self.perceptual = discriminator, perceptual
        self.joint, self.config = joint or Joint(classification=0.0), config

    def learners(self, model: Autoencoder) -> dict[str, Any]:
        """The parameters that each loss trains."""
        return {"discriminator": self.discriminator.parameters(), "autoencoder": model.parameters()}

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss | Iterator[tuple[str, Loss]]:
        """The losses of `model` on `batch`."""
        return self._losses(model, batch, step) if model.training else self.joint(model, batch, step)

    def _losses(self, model: Autoencoder, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
        images, mask = self.joint.corrupted(batch.images)
        code = model.encode(images)
        params = model.decode_params(code.z, batch.images.shape[-2:])
        fake: Tensor = model.likelihood.mean(params)  # type: ignore[operator]  # the likelihoods' contract
        real_logits, fake_logits = self.discriminator(batch.images), self.discriminator(fake.detach())
        terms = {
            "logit_real": batch.mean(_mean(real_logits)).detach(),
            "logit_fake": batch.mean(_mean(fake_logits)).detach(),
        }
        yield "discriminator", Loss(batch.mean(hinge(real_logits, fake_logits)), terms)

        loss = self.joint.of(model, batch, code, step, mask, params=params)
        total, terms = loss.total, dict(loss.terms)
        if self.perceptual is not None and self.config.perceptual:
            distance = batch.mean(self.perceptual(fake, batch.images))
            total, terms["perceptual"] = total + self.config.perceptual * distance, distance.detach()
        if self.config.adversarial and step >= self.config.start:
            verdict = -batch.mean(_mean(self.discriminator(fake)))
            weight = self._adaptive_weight(total, verdict, model) if self.config.adaptive else torch.ones(())
            total = total + self.config.adversarial * weight.to(verdict.device) * verdict
            terms |= {"adversarial": verdict.detach(), "adaptive_weight": weight}
        yield "autoencoder", Loss(total, terms, loss.counts, loss.weights)

    def _adaptive_weight(self, total: Tensor, verdict: Tensor, model: Autoencoder) -> Tensor:
        """|gradient of total| / |gradient of verdict|, by the decoder's last weight."""
        weight = last_weight(model)
        norms = []
        for value in (total, verdict):
            (gradient,) = torch.autograd.grad(value, weight, retain_graph=True)
            norms.append(global_batch.all_mean(at_least_float32(gradient)).norm())
        return (norms[0] / (norms[1] + 1e-4)).clamp(max=_LARGEST).detach()


def hinge(real: Float[Tensor, "b *p"], fake: Float[Tensor, "b *p"]) -> Float[Tensor, " b"]:
    """Half of max(0, 1 - real) + max(0, 1 + fake), mean over patches: the discriminator's loss (Lim & Ye 2017)."""
    return 0.5 * (_mean(F.relu(1 - at_least_float32(real))) + _mean(F.relu(1 + at_least_float32(fake))))


def last_weight(model: Autoencoder) -> nn.Parameter:
    """The last weight of the decoder that is trained and is no bias; raises InputError if there is none."""
    weights = [] if model.decoder is None else [p for p in model.decoder.parameters() if p.ndim > 1 and p.requires_grad]
    if not weights:
        raise InputError(
            "an adaptive weight is by the decoder's last weight, and the model has no decoder that is trained"
        )
    return weights[-1]


def _mean(logits: Float[Tensor, "b *p"]) -> Float[Tensor, " b"]:
    return at_least_float32(logits).flatten(1).mean(1) if logits.ndim > 1 else at_least_float32(logits)
