"""Variational autoencoder; --objective.beta 4 for a beta-VAE.   python -m experiments.vae

Kingma & Welling 2014, Higgins et al. 2017. The loss is -ELBO in nats per image (for beta = 1), of pixels
binarised anew in every batch.

| with `--model.widths 400 400 --recipe.epochs 250`, 33 minutes on one core | |
|---|---|
| test log-likelihood, 968,816 parameters, 1,000 samples for each test image | -87.21 nats |
| Fréchet classifier distance: samples of the prior; of the mixture; test digits | 66.0; 20.4; 1.1 |

(`--generation.likelihood-samples 1000 --generation.likelihood-images 10000`. Classifier b587c7803d36, of 96.3 %
accuracy on binarised test digits.)
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch

from ae import (
    Autoencoder,
    Data,
    DenseEncoder,
    Gaussian,
    Generation,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
)
from ae.cli import cli
from ae.models.likelihoods import LikelihoodSettings
from ae.utils.validation import Positive, Settings, check_unread
from experiments.networks import EncoderSettings


@dataclass(frozen=True)
class Model(EncoderSettings, LikelihoodSettings):
    """Encoder, Gaussian code, and mirrored decoder."""

    norm: bool = True  # batch norm in every stage of conv; the others have norms of their own
    widths: tuple[Positive[int], ...] = ()  # of fully connected layers, which replace the stages
    latent: Positive[int] = 16  # size of the code
    _: KW_ONLY
    likelihood: Literal["bernoulli", "gaussian", "discretized-logistic", "categorical"] = "bernoulli"  # of the pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widths:
            check_unread(
                self, ["channels", "encoder", "norm", "depth"], "where Model.widths are given: leave out one of both"
            )


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of a variational autoencoder."""

    data: Data = Data("mnist", binarise=True)
    model: Model = Model()
    objective: Joint = Joint(reconstruction=1.0, beta=1.0, classification=0.0)
    recipe: Recipe = Recipe(epochs=10, batch_size=128, optimizer="adamw", lr=0.002)
    generation: Generation = Generation()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.likelihood == "gaussian":  # a density, not comparable with the probability of discrete pixels
            self.generation.check_no_likelihood("with Model.likelihood gaussian")


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the model for the image shape of `data`."""
    encoder = DenseEncoder(data.shape, model.widths) if model.widths else model.make_encoder(data.shape)
    likelihood = model.make_likelihood()
    bottleneck = Gaussian(encoder.feature_shape(*data.shape[1:]), model.latent)
    decoder = encoder.mirror(likelihood.channels(data.shape[0]))
    return Autoencoder(encoder, decoder, bottleneck, likelihood=likelihood)


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("vae", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        is_density = config.model.likelihood == "gaussian"
        generation = replace(config.generation, likelihood_samples=0) if is_density else config.generation
        generation.report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
