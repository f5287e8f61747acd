"""A variational autoencoder; beta by a flag, --objective.rate 4.   python -m experiments.vae

Kingma & Welling 2014, Higgins et al. 2017. The loss is -ELBO in nats an image (for beta = 1); grey pixels count as
probabilities.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ae import (
    Autoencoder,
    ConvEncoder,
    Data,
    DeconvDecoder,
    Gaussian,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
    report,
)
from ae.cli import cli
from ae.data import ImageSet
from ae.pictures import grid_picture
from ae.sampling import interpolations, log_likelihoods, samples, traversals
from ae.seeding import derive

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Model:
    """A convolutional encoder and its mirror image, with a Gaussian code between them."""

    channels: tuple[int, ...] = (32, 64)  # of the encoder's stages; the decoder has them in reverse
    latent: int = 16  # size of the code


@dataclass(frozen=True)
class Config:
    """A variational autoencoder."""

    data: Data = Data("mnist")
    model: Model = Model()
    objective: Joint = Joint("bernoulli", reconstruction=1.0, rate=1.0, classification=0.0)
    recipe: Recipe = Recipe(epochs=10, batch_size=128, optimizer="adamw", lr=0.002)
    likelihood_samples: int = 100  # codes an image, for its log-likelihood by importance sampling; 0: none
    likelihood_images: int = 500  # of the validation images
    run: RunConfig = RunConfig()


def build(model: Model, data: Splits) -> Autoencoder:
    """The model for images as in `data`."""
    channels, height, width = data.shape
    encoder = ConvEncoder(channels, model.channels)
    bottleneck = Gaussian(encoder.feature_shape(height, width), model.latent)
    return Autoencoder(encoder, DeconvDecoder(channels, model.channels[::-1]), bottleneck)


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("vae", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        seen = data.train if data.validation is None else data.validation
        if config.likelihood_samples:
            some = seen.select(slice(config.likelihood_images))
            results["val/log_likelihood"] = log_likelihoods(model, some, config.likelihood_samples).mean().item()
        report(model, data, results, run, pictures(model, seen, min(8, config.model.latent)))


def pictures(model: Autoencoder, images: ImageSet, latents: int) -> "dict[str, Image]":
    """Samples of the prior, what lies between two images, and what each of the first latents says."""
    torch.manual_seed(derive("pictures"))
    size = images.shape[1:]
    batch = images.to(next(model.parameters()).device).batch(slice(16))
    values = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    return {
        "samples": grid_picture(samples(model, 80, size).unflatten(0, (8, 10)), "samples of the prior"),
        "interpolations": grid_picture(interpolations(model, batch.images[:8], batch.images[8:]), "between two images"),
        "traversals": grid_picture(
            traversals(model, batch.images[0], range(latents), values),
            f"one latent a row, at {values[0]:g} to {values[-1]:g}",
        ),
    }


if __name__ == "__main__":
    cli(main)
