"""VQGAN: reconstructions that are sharp, by a perceptual distance and a discriminator.   python -m experiments.vqgan

Esser et al. 2021. The bottleneck is a codebook, FSQ, or a Gaussian (Rombach et al. 2022): `--model.bottleneck`. The
perceptual distance is on the encoder of the package's classifier of digits; for other images `--perceptual run:PATH`,
the encoder of a run on such images, or `timm:NAME`, with timm's weights, which are downloaded.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ae import (
    FSQ,
    AdversarialConfig,
    Autoencoder,
    Data,
    InputError,
    Joint,
    PatchDiscriminator,
    PerceptualAdversarial,
    PerceptualDistance,
    Recipe,
    Run,
    RunConfig,
    SpatialGaussian,
    Splits,
    TimmEncoder,
    VectorQuantizer,
    fit,
    load_part,
    report,
)
from ae.cli import cli
from ae.data import ImageSet
from ae.evaluation.frechet import digit_encoder, sample_quality
from ae.evaluation.inference import evaluating
from ae.evaluation.metrics import sharpness
from ae.models.likelihoods import LikelihoodSettings
from ae.utils.validation import Positive, Settings
from experiments.networks import EncoderSettings


@dataclass(frozen=True)
class Model(EncoderSettings, LikelihoodSettings):
    """Encoder, bottleneck, mirrored decoder, and a discriminator of patches."""

    encoder: str = "resnet"  # conv, resnet, vit (of width channels[-1]), timm:NAME, or run:PATH, that of a run
    bottleneck: Literal["vq", "fsq", "gaussian"] = "vq"  # vq: a codebook; gaussian: of 4 channels
    codebook_size: Positive[int] = 128  # number of codes of vq
    levels: tuple[Positive[int], ...] = (8, 5, 5)  # of fsq
    discriminator: Positive[int] = 32  # channels of the discriminator's first layer


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of a VQGAN."""

    data: Data = Data("mnist")
    model: Model = Model()
    objective: Joint = Joint(classification=0.0)
    adversarial: AdversarialConfig = AdversarialConfig()
    perceptual: str = "digits"  # encoder of the perceptual distance: digits, run:PATH or timm:NAME
    recipe: Recipe = Recipe(
        epochs=6, batch_size=64, optimizer="adamw", lr=0.0005, betas=(0.5, 0.9), schedule="constant", ema=0.999
    )
    run: RunConfig = RunConfig()


def build(config: Config, data: Splits) -> tuple[Autoencoder, PerceptualAdversarial]:
    """Build the model for the image shape of `data`, and the objective with the discriminator."""
    model, (channels, height, width) = config.model, data.shape
    encoder, likelihood = model.make_encoder(data.shape), model.make_likelihood()
    features = encoder.feature_shape(height, width)
    bottlenecks: dict[str, nn.Module] = {
        "vq": VectorQuantizer(features[0], model.codebook_size),
        "fsq": FSQ(features[0], model.levels),
        "gaussian": SpatialGaussian(features, 4),
    }
    decoder = encoder.mirror(likelihood.channels(channels))
    autoencoder = Autoencoder(encoder, decoder, bottlenecks[model.bottleneck], likelihood=likelihood)
    distance = None if not config.adversarial.perceptual else PerceptualDistance(_judge(config.perceptual, data))
    discriminator = PatchDiscriminator(channels, model.discriminator)
    return autoencoder, PerceptualAdversarial(discriminator, distance, config.objective, config.adversarial)


def _judge(name: str, data: Splits) -> nn.Module:
    """The frozen encoder of the perceptual distance."""
    kind, _, path = name.partition(":")
    if kind == "run" and path:
        return load_part(path, "encoder")
    if kind == "timm" and path:
        return TimmEncoder(path, data.shape[0], pretrained=True, frozen=True)
    if name != "digits":
        raise InputError(f"Config.perceptual must be digits, run:PATH or timm:NAME, got {name!r:.60}")
    if data.shape != (1, 28, 28):
        raise InputError(f"Config.perceptual digits is of images [1 28 28], not {list(data.shape)}: give run:PATH")
    return digit_encoder()


def reconstructions(model: Autoencoder, images: ImageSet, count: int) -> Tensor:
    """Reconstruct the first images."""
    device = next(model.parameters()).device
    with evaluating(model):
        batches = images.select(slice(count)).to(device).in_order(250)
        return torch.cat([model(batch.images).reconstruction.cpu() for batch in batches])


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model, objective = build(config, data)

    def measure(test: ImageSet) -> dict[str, float | str]:
        restored = reconstructions(model, test, len(test))
        originals = torch.cat([batch.images for batch in test.in_order(500)])
        samples = {"reconstructions": partial(reconstructions, model, test)}
        return {"sharpness": sharpness(restored) / sharpness(originals), **sample_quality(samples, data, test)}

    with Run("vqgan", config.run, config) as run:
        report(model, data, fit(model, objective, data, config.recipe, run), run, measure=measure)


if __name__ == "__main__":
    cli(main)
