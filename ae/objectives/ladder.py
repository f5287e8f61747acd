"""Objective of the ladder network: classification and denoising at every level."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ae.data import Augment, Batch
from ae.functional import at_least_float32, masked_mean
from ae.models.autoencoder import Autoencoder
from ae.models.encoders import ConvEncoder
from ae.models.heads import Classifier
from ae.objectives.joint import Joint, Loss, classification
from ae.utils.errors import InputError
from ae.utils.seeding import normal_like
from ae.utils.validation import AtLeast0, Positive, checked_arguments


class Ladder(nn.Module):
    """Ladder network: classification by a noisy encoder, and denoising at every level of encoder and classifier.

    Rasmus et al. 2015, algorithm 1. The corrupted path has noise at every level and classifies. The decoder starts from
    the class probabilities of the corrupted path; at each level, a combinator of the signal from above and the lateral
    connection (equation 2) estimates the activations of the clean path. Levels are the image, the pre-activations of
    each stage and of the head's hidden layer, and the logits. Each channel is normalised over the batch (of each
    process), and the noise is in units of its standard deviation. Gradients flow into the targets: unlabelled images
    train features that can be denoised, and normalisation prevents their collapse. `augment` applies to labelled images
    only: these are few and soon overfitted, while unlabelled images show the true density between the classes.

    Terms, beside those of `Joint`: `denoising/0` (image), `denoising/1` (first stage), ..., up to the logits; mean
    squared errors per normalised activation. In evaluation, the loss is the classification without noise.
    """

    @checked_arguments
    def __init__(
        self,
        model: Autoencoder,
        height: Positive[int],
        width: Positive[int],
        weights: Sequence[AtLeast0[float]],
        noise: Positive[float] = 0.3,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        encoder, heads = model.encoder, list(model.heads.values())
        head = heads[0] if len(heads) == 1 else None
        if not isinstance(encoder, ConvEncoder) or not isinstance(head, Classifier):
            types = ", ".join(type(part).__name__ for part in (encoder, *heads))
            raise InputError(f"a ladder stands on a ConvEncoder and one Classifier, got {types}")
        channels = (encoder.in_channels, *encoder.channels)
        if len(weights) != len(channels) + 2:
            levels = f"image, {len(channels) - 1} stages, hidden layer, logits"
            required = f"{len(channels) + 2} weights: {levels}"
            raise InputError(f"a ladder on this model takes {required}; got {tuple(weights)}")
        self.weights, self.noise, self.augment = tuple(weights), noise, augment or Augment()
        top = encoder.feature_shape(height, width)
        self.down = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
            for c_out, c_in in pairwise(channels)
        )
        self.down.append(nn.Sequential(nn.Linear(head.hidden, prod(top)), nn.Unflatten(1, top)))
        self.down.append(nn.Linear(head.classes, head.hidden))
        self.denoise = nn.ModuleList(Combinator(count) for count in (*channels, head.hidden, head.classes))
        self.joint = Joint(reconstruction=0.0)

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        if not model.training:
            return self.joint(model, batch, step)
        labelled = (batch.labels >= 0)[:, None, None, None]
        images = torch.where(labelled, self.augment(batch.images), batch.images)
        clean, _ = _path(model, images, noise=0.0)
        with _frozen_running_statistics(model):
            noisy, logits = _path(model, images, self.noise)
        loss = classification(logits, batch)
        total, terms = loss.total, dict(loss.terms)
        for i, value in self._costs(noisy, clean, logits.softmax(1)):
            total, terms[f"denoising/{i}"] = total + self.weights[i] * value, value.detach()
        return Loss(total, terms, loss.counts, loss.weights)

    def _costs(
        self, noisy: list[Tensor], clean: list[Tensor], signal: Float[Tensor, "b classes"]
    ) -> Iterator[tuple[int, Float[Tensor, ""]]]:
        """Denoise from the top to the lowest weighted level; yields (level, mean squared error)."""
        lowest = min((i for i, weight in enumerate(self.weights) if weight), default=len(noisy))
        for i in range(len(noisy) - 1, lowest - 1, -1):
            denoised = self.denoise[i](noisy[i], _normalised(signal))
            if self.weights[i]:
                yield i, masked_mean((denoised - clean[i]).square().flatten(1).mean(1))
            if i > lowest:
                signal = self.down[i - 1](denoised)
                if signal.ndim == 4:  # crop: a stage rounds odd sizes up
                    signal = signal[..., : clean[i - 1].shape[2], : clean[i - 1].shape[3]]


def _path(
    model: Autoencoder, images: Float[Tensor, "b c h w"], noise: float
) -> tuple[list[Float[Tensor, "b ..."]], Float[Tensor, "b classes"]]:
    """Normalised activations of a path at each level, with noise, and the logits.

    The noise is scaled by the activations' standard deviation, with gradient: a larger scale does not reduce the noise.
    """
    levels: list[Tensor] = []

    def level(x: Tensor) -> Tensor:
        mean, std = _statistics(x)
        z = (x - mean) / std
        if noise:
            added = noise * normal_like(z)
            z, x = z + added, x + added * std
        levels.append(z)
        return x

    encoder: Any = model.encoder
    head: Any = next(iter(model.heads.values()))
    x = (level(images) - encoder.mean) / encoder.std
    for stage in encoder.stages:
        x = level(stage.pre_activation(x)).relu()
    x = level(head.pre_activation(model.bottleneck(x).mean)).relu()
    return levels, level(head.fc2(x))


class Combinator(nn.Module):
    """Denoising function of noisy activations z and the signal u from above (Rasmus et al. 2015, equation 2).

    (z - m(u)) v(u) + m(u), with m and v each a1 sigmoid(a2 u + a3) + a4 u + a5 and parameters per channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.0, 1, 0, 0, 0])[:, None].repeat(1, channels))
        self.slope = nn.Parameter(torch.tensor([0.0, 1, 0, 0, 1])[:, None].repeat(1, channels))

    def forward(self, z: Float[Tensor, "b channels ..."], u: Float[Tensor, "b channels ..."]) -> Tensor:
        """Normalised noisy activations z and signal u from above -> denoised activations."""
        shape = (5, -1, *(1,) * (z.ndim - 2))

        def curve(a: Tensor) -> Tensor:
            a1, a2, a3, a4, a5 = a.view(shape)
            return a1 * (a2 * u + a3).sigmoid() + a4 * u + a5

        mean = curve(self.mean)
        return (z - mean) * curve(self.slope) + mean


def _statistics(x: Float[Tensor, "b channels ..."]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, over images and positions."""
    dims, x = [0, *range(2, x.ndim)], at_least_float32(x)
    mean = x.mean(dims, keepdim=True)
    return mean, ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()


def _normalised(x: Float[Tensor, "b channels ..."]) -> Float[Tensor, "b channels ..."]:
    mean, std = _statistics(x)
    return (x - mean) / std


@contextmanager
def _frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Keep running statistics of batch norm unchanged, so that they are those of the clean path."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
