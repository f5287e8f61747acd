"""A Wasserstein autoencoder: codes made alike to a Gaussian, without noise.   python -m experiments.wae

Tolstikhin et al. 2018, WAE-MMD. The codes of a batch as a whole are pulled to N(0, I), so that it can be sampled; each
image's own code stays one point, which reconstructs sharply.
"""

from dataclasses import dataclass

import torch

from ae import MMD, Data, Generation, Recipe, Run, RunConfig, fit
from ae.cli import cli
from ae.sampling import standard_normal
from experiments.reconstruct import Model, build


@dataclass(frozen=True)
class Config:
    """A Wasserstein autoencoder."""

    data: Data = Data("mnist")
    model: Model = Model(latent=8, norm=True)
    objective: MMD = MMD(weight=0.1)
    recipe: Recipe = Recipe(epochs=10, batch_size=256, optimizer="adamw", lr=0.002)
    generation: Generation = Generation()
    run: RunConfig = RunConfig()


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    prior = standard_normal(model)
    with Run("wae", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        config.generation.report(model, data, results, run, prior)


if __name__ == "__main__":
    cli(main)
