"""Wasserstein autoencoder: deterministic codes, matched to a Gaussian by MMD.   python -m experiments.wae

Tolstikhin et al. 2018, WAE-MMD. The penalty matches the aggregate posterior, over a batch, to N(0, I), the prior for
sampling. The encoder is deterministic.

| with `--recipe.epochs 5` | |
|---|---|
| Fréchet classifier distance: samples of the prior; of the mixture; test digits | 358; 270; 1.2 |
| test MSE per pixel, with a code of 8 numbers; MMD in the last batches | 0.0234; 0.0075 |

(Classifier b587c7803d36, of 99.5 % test accuracy.)
"""

from dataclasses import dataclass

import torch

from ae import (
    MMD,
    Autoencoder,
    Data,
    Dense,
    Generation,
    InputError,
    Recipe,
    Run,
    RunConfig,
    Splits,
    StandardNormal,
    fit,
)
from ae.cli import cli
from ae.utils.validation import Settings
from experiments import reconstruct
from experiments.reconstruct import Model


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of a Wasserstein autoencoder."""

    data: Data = Data("mnist")
    model: Model = Model(latent=8, norm=True)
    objective: MMD = MMD(weight=0.1)
    recipe: Recipe = Recipe(epochs=10, batch_size=256, optimizer="adamw", lr=0.002)
    generation: Generation = Generation()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generation.check_no_likelihood("by a model without a posterior")


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the autoencoder of `reconstruct` with the prior N(0, I) over its latent vector."""
    autoencoder = reconstruct.build(model, data)
    if not isinstance(autoencoder.bottleneck, Dense):
        raise InputError("a prior needs a latent vector: give Model.latent")
    autoencoder.bottleneck.prior = StandardNormal((autoencoder.bottleneck.latent,))
    return autoencoder


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("wae", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        config.generation.report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
