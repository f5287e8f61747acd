"""Joint reconstruction and classification.   python -m experiments.joint"""

from dataclasses import dataclass

import torch

from ae import (
    Augment,
    Autoencoder,
    Classifier,
    ConvEncoder,
    Data,
    DeconvDecoder,
    Dense,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    UncertaintyWeighting,
    fit,
    report,
)
from ae.cli import cli
from ae.models.likelihoods import LikelihoodSettings
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class Model(LikelihoodSettings):
    """Convolutional encoder, mirrored decoder, and a classifier on the code."""

    channels: tuple[Positive[int], ...] = (32, 64)  # of the encoder's stages; the decoder has them in reverse
    latent: Positive[int] | None = None  # size of the latent vector; none: the features are the code
    norm: bool = False  # batch norm in every stage
    hidden: Positive[int] = 128  # width of the classifier's hidden layer


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of joint reconstruction and classification."""

    data: Data = Data("mnist", augment=Augment(shift=1))
    model: Model = Model()
    objective: Joint = Joint(reconstruction=20.0, classification=1.0)
    learn_weights: bool = False  # learn both weights, from the objective's as a beginning
    recipe: Recipe = Recipe(epochs=5, batch_size=128, lr=0.1)
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective.check_likelihood(self.model.likelihood)


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the model for the image shape and classes of `data`."""
    channels, height, width = data.shape
    encoder = ConvEncoder(channels, model.channels, model.norm)
    likelihood = model.make_likelihood()
    decoder = DeconvDecoder(likelihood.channels(channels), model.channels[::-1], model.norm)
    features = encoder.feature_shape(height, width)
    bottleneck = None if model.latent is None else Dense(features, model.latent)
    code = features if model.latent is None else (model.latent,)
    heads = {"digit": Classifier(code, data.class_count, model.hidden)}
    return Autoencoder(encoder, decoder, bottleneck, heads, likelihood)


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    objective = UncertaintyWeighting(config.objective) if config.learn_weights else config.objective
    with Run("joint", config.run, config) as run:
        results = fit(model, objective, data, config.recipe, run)
        report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
