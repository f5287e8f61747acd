"""An importance-weighted autoencoder: a VAE with a tighter bound.   python -m experiments.iwae

Burda et al. 2016. The loss is the bound on -log p(x) with k codes an image, in nats; --objective.samples is k.
"""

from dataclasses import dataclass

import torch

from ae import IWAE, Data, Generation, Recipe, Run, RunConfig, fit
from ae.cli import cli
from experiments.vae import Model, build


@dataclass(frozen=True)
class Config:
    """An importance-weighted autoencoder."""

    data: Data = Data("mnist", binarise=True)
    model: Model = Model()
    objective: IWAE = IWAE(samples=5)
    recipe: Recipe = Recipe(epochs=10, batch_size=128, optimizer="adamw", lr=0.002)
    generation: Generation = Generation()
    run: RunConfig = RunConfig()


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("iwae", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        config.generation.report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
