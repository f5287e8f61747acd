"""CNN classifier alone, by the classic recipe.   python -m experiments.classify"""

from dataclasses import dataclass

import torch

from ae import Autoencoder, Classifier, Data, Joint, Recipe, Run, RunConfig, Splits, fit, report
from ae.cli import cli
from ae.utils.validation import Positive, Settings
from experiments.networks import EncoderSettings


@dataclass(frozen=True)
class Model(EncoderSettings):
    """Encoder with a classifier on its features."""

    hidden: Positive[int] = 128  # width of the classifier's hidden layer


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of classification alone."""

    data: Data = Data("mnist")
    model: Model = Model()
    objective: Joint = Joint(reconstruction=0.0)
    recipe: Recipe = Recipe(epochs=10, batch_size=64, lr=0.01, momentum=0.9, schedule="constant", log_every=100)
    run: RunConfig = RunConfig()


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the model for the image shape and classes of `data`."""
    encoder = model.make_encoder(data.shape)
    head = Classifier(encoder.feature_shape(*data.shape[1:]), data.class_count, model.hidden)
    return Autoencoder(encoder, heads={"digit": head})


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("classify", config.run, config) as run:
        results = fit(model, config.objective, data, config.recipe, run)
        report(model, data, results, run)


if __name__ == "__main__":
    cli(main)
