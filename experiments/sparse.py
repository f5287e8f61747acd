"""A sparse autoencoder: of many latents, a few for each image.   python -m experiments.sparse

Makhzani & Frey 2014.

| with `--recipe.epochs 3` | |
|---|---|
| test MSE a pixel, 16 of 512 latents for each image | 0.0095 |
| latents that some image of a batch uses | 99.8 % |
"""

from dataclasses import dataclass

import torch

from ae import Autoencoder, ConvEncoder, Data, DeconvDecoder, Joint, Recipe, Run, RunConfig, Splits, TopK, fit, report
from ae.cli import cli
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class Model(Settings):
    """A convolutional encoder and its mirror image, with a sparse code between them."""

    channels: tuple[Positive[int], ...] = (32, 64)  # of the encoder's stages; the decoder has them in reverse
    latent: Positive[int] = 512  # size of the code
    k: Positive[int] = 16  # of these, how many an image uses


@dataclass(frozen=True)
class Config(Settings):
    """A sparse code."""

    data: Data = Data("mnist")
    model: Model = Model()
    objective: Joint = Joint(classification=0.0)
    recipe: Recipe = Recipe(epochs=5, batch_size=128, optimizer="adamw", lr=0.002)
    run: RunConfig = RunConfig()


def build(model: Model, data: Splits) -> Autoencoder:
    """The model for images as in `data`."""
    channels, height, width = data.shape
    encoder = ConvEncoder(channels, model.channels)
    bottleneck = TopK(encoder.feature_shape(height, width), model.latent, model.k)
    return Autoencoder(encoder, DeconvDecoder(channels, model.channels[::-1]), bottleneck)


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("sparse", config.run, config) as run:
        report(model, data, fit(model, config.objective, data, config.recipe, run), run)


if __name__ == "__main__":
    cli(main)
