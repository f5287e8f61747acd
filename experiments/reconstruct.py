"""Reconstruction alone: encoder and decoder, without labels.   python -m experiments.reconstruct"""

from dataclasses import dataclass

import torch

from ae import Autoencoder, Data, Dense, Joint, Recipe, Run, RunConfig, Splits, fit, report
from ae.cli import cli
from ae.models.likelihoods import LikelihoodSettings
from ae.utils.validation import Positive, Settings
from experiments.networks import EncoderSettings


@dataclass(frozen=True)
class Model(EncoderSettings, LikelihoodSettings):
    """Encoder and mirrored decoder."""

    latent: Positive[int] | None = None  # size of the latent vector; none: the features are the code


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of reconstruction alone."""

    data: Data = Data("mnist")
    model: Model = Model()
    objective: Joint = Joint(classification=0.0)
    recipe: Recipe = Recipe(epochs=4, batch_size=128, lr=0.1)
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective.check_likelihood(self.model.likelihood)


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the model for the image shape of `data`."""
    channels, height, width = data.shape
    encoder, likelihood = model.make_encoder(data.shape), model.make_likelihood()
    decoder = encoder.mirror(likelihood.channels(channels))
    bottleneck = None if model.latent is None else Dense(encoder.feature_shape(height, width), model.latent)
    return Autoencoder(encoder, decoder, bottleneck, likelihood=likelihood)


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("reconstruct", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
