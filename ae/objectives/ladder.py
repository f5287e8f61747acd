"""The ladder network's objective: denoising at every stage of an encoder beside a classifier."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.checks import check_positive
from ae.data import Batch
from ae.encoders import ConvEncoder
from ae.errors import InputError
from ae.losses import masked_mean
from ae.model import Autoencoder
from ae.objectives.joint import Joint, Loss, classification, only_head


class Ladder(nn.Module):
    """Classification under noise, and the noise's removal from image, features of every stage, and logits.

    Rasmus et al. 2015, algorithm 1: a corrupted path, with noise at every stage, classifies; a decoder goes down from
    its class probabilities and at each level removes the noise with the help of what the corrupted path was there (the
    lateral connection, equation 2); the targets are the clean path's, each channel normalised over the batch (in
    several processes, over each one's part). Gradients do not flow into the targets. Noise is in units of the
    standard deviations of what it is added to.

    Terms, beside those of `Joint`: `denoising/0` (image), `denoising/1` (first stage), ..., the last one of the logits;
    mean squared errors a normalised number. In evaluation it is the classification alone, without noise.
    """

    def __init__(
        self, model: Autoencoder, classes: int, height: int, width: int, weights: Sequence[float], noise: float = 0.3
    ) -> None:
        super().__init__()
        if not isinstance(model.encoder, ConvEncoder):
            raise InputError(f"a ladder stands on the stages of a ConvEncoder, got {type(model.encoder).__name__}")
        self.channels = (model.encoder.in_channels, *model.encoder.channels)
        if len(weights) != len(self.channels) + 1 or not all(weight >= 0 for weight in weights):
            wanted = f"{len(self.channels) + 1} weights of 0 or more: of image, {len(self.channels) - 1} stages, logits"
            raise InputError(f"a ladder on this encoder takes {wanted}; got {tuple(weights)}")
        check_positive(noise=noise)
        self.weights, self.noise = tuple(weights), noise
        self.top = model.encoder.feature_shape(height, width)
        self.from_logits = nn.Linear(classes, self.channels[-1] * self.top[1] * self.top[2])
        self.down = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
            for c_out, c_in in zip(self.channels, self.channels[1:], strict=False)
        )
        self.denoise = nn.ModuleList(Combinator(c) for c in (*self.channels, classes))
        self.joint = Joint(reconstruction=0.0)

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        if not model.training:
            return self.joint(model, batch, step)
        clean = [_normalised(level) for level in self._clean(model, batch.images)]
        with _running_statistics_kept(model):
            noisy, logits = self._noisy(model, batch.images)
        loss = classification(logits, batch.labels)
        total, terms = loss.total, dict(loss.terms)
        for i, value in self._costs(noisy, clean, logits.softmax(1)):
            total, terms[f"denoising/{i}"] = total + self.weights[i] * value, value.detach()
        return Loss(total, terms, loss.counts)

    @torch.no_grad()
    def _clean(self, model: Autoencoder, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b ..."]]:
        """What the clean path is at each level, from the image to the logits."""
        features = model.encoder.features(images)  # type: ignore[operator]
        return [images, *features, only_head(model.classify(model.bottleneck(features[-1])))]

    def _noisy(
        self, model: Autoencoder, images: Float[Tensor, "b c h w"]
    ) -> tuple[list[Float[Tensor, "b ..."]], Float[Tensor, "b classes"]]:
        """What the corrupted path is at each level, normalised; and its logits.

        The noise has the scale of what it is added to, with its gradient: a larger scale makes no level less noisy.
        """
        levels: list[Tensor] = []

        def with_noise(x: Tensor) -> Tensor:
            mean, std = _statistics(x)
            levels.append((x - mean) / std + self.noise * torch.randn_like(x))
            return levels[-1] * std + mean

        encoder = model.encoder
        x = (with_noise(images) - encoder.mean) / encoder.std  # type: ignore[operator]
        for stage in encoder.stages:  # type: ignore[union-attr]
            x = with_noise(stage(x))
        return levels, with_noise(only_head(model.classify(model.bottleneck(x))))

    def _costs(
        self, noisy: list[Tensor], clean: list[Tensor], signal: Float[Tensor, "b classes"]
    ) -> Iterator[tuple[int, Float[Tensor, ""]]]:
        """From the top down to the lowest level that has a weight: its number, and the error left after denoising."""
        lowest = min((i for i, weight in enumerate(self.weights) if weight), default=len(noisy))
        for i in range(len(noisy) - 1, lowest - 1, -1):
            denoised = self.denoise[i](noisy[i], _normalised(signal))
            if self.weights[i]:
                yield i, masked_mean((denoised - clean[i]).square().flatten(1).mean(1))
            if i == len(noisy) - 1:
                signal = self.from_logits(denoised).unflatten(1, self.top)
            elif i:
                signal = self.down[i - 1](denoised)[..., : clean[i - 1].shape[2], : clean[i - 1].shape[3]]


class Combinator(nn.Module):
    """What a channel was before the noise, from the noisy value and what comes from above (Rasmus et al. 2015, eq. 2).

    (z - m(u)) v(u) + m(u), with m and v each a1 sigmoid(a2 u + a3) + a4 u + a5, of numbers of the channel's own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.0, 1, 0, 0, 0])[:, None].repeat(1, channels))
        self.slope = nn.Parameter(torch.tensor([0.0, 1, 0, 0, 1])[:, None].repeat(1, channels))

    def forward(self, z: Float[Tensor, "b channels ..."], u: Float[Tensor, "b channels ..."]) -> Tensor:
        """Noisy values and the signal from above, each normalised -> denoised values."""
        shape = (5, -1, *(1,) * (z.ndim - 2))

        def curve(a: Tensor) -> Tensor:
            a1, a2, a3, a4, a5 = a.view(shape)
            return a1 * (a2 * u + a3).sigmoid() + a4 * u + a5

        mean = curve(self.mean)
        return (z - mean) * curve(self.slope) + mean


def _statistics(x: Float[Tensor, "b channels ..."]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, over images and places."""
    dims = [0, *range(2, x.ndim)]
    mean = x.mean(dims, keepdim=True)
    return mean, ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()


def _normalised(x: Float[Tensor, "b channels ..."]) -> Float[Tensor, "b channels ..."]:
    mean, std = _statistics(x)
    return (x - mean) / std


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm does not take in what it sees: running statistics are to be those of clean images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
