"""Joint reconstruction and classification.   python -m experiments.joint

Data with targets beside the labels get a head for each: a classifier for classes, a regressor for numbers, a segmenter
for classes of pixels. `--objective.heads` weighs them by name:

    python -m experiments.joint --data.name folder --data.root images --data.targets targets.csv
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ae import (
    Augment,
    Autoencoder,
    Classifier,
    Data,
    Dense,
    InputError,
    Joint,
    MultiLabel,
    Recipe,
    Regressor,
    Run,
    RunConfig,
    Segmenter,
    Splits,
    UncertaintyWeighting,
    fit,
    report,
)
from ae.cli import cli
from ae.data.targets import Target, known_targets
from ae.models.likelihoods import LikelihoodSettings
from ae.utils.validation import Positive, Settings
from experiments.networks import EncoderSettings


@dataclass(frozen=True)
class Model(EncoderSettings, LikelihoodSettings):
    """Encoder, mirrored decoder, and heads on the code."""

    latent: Positive[int] | None = None  # size of the latent vector; none: the features are the code
    hidden: Positive[int] = 128  # width of a head's hidden layer


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of joint reconstruction and classification."""

    data: Data = Data("mnist", augment=Augment(shift=1))
    model: Model = Model()
    objective: Joint = Joint(reconstruction=20.0, classification=1.0)
    learn_weights: bool = False  # learn both weights, from the objective's as a beginning
    recipe: Recipe = Recipe(epochs=5, batch_size=128, lr=0.1, precision="auto")
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective.check_likelihood(self.model.likelihood)


def build(model: Model, data: Splits) -> Autoencoder:
    """Build the model for the image shape, classes and targets of `data`."""
    channels, height, width = data.shape
    encoder, likelihood = model.make_encoder(data.shape), model.make_likelihood()
    decoder = encoder.mirror(likelihood.channels(channels))
    features = encoder.feature_shape(height, width)
    bottleneck = None if model.latent is None else Dense(features, model.latent)
    code = features if model.latent is None else (model.latent,)
    heads: dict[str, nn.Module] = {}
    targets = known_targets(data.train)
    if data.classes or not targets:
        heads["digit"] = Classifier(code, data.class_count, model.hidden)
    stages = (channels, *(stage.channels for stage in encoder.feature_info))
    if "digit" in heads and "digit" in targets:
        raise InputError("digit is the head of the label: name the target digit differently")
    heads |= {name: head_for(name, target, code, stages, model.hidden) for name, target in targets.items()}
    return Autoencoder(encoder, decoder, bottleneck, heads, likelihood)


def head_for(name: str, target: Target, code: Sequence[int], stages: Sequence[int], hidden: int) -> nn.Module:
    """Build a head for a target: numbers, a class, labels that are each present or not, or a class of each pixel."""
    values = target.values
    if values.is_floating_point():
        if values.ndim > 2:
            raise InputError(f"joint has no head for a target of shape {list(values.shape[1:])}: {name}")
        columns = values.view(len(values), -1).unbind(1)
        known = [column[~column.isnan()] for column in columns]
        if not all(len(column) for column in known):
            raise InputError(f"the target {name} is missing for every training image")
        std = [column.std(correction=0).item() or 1.0 for column in known]
        return Regressor(code, name, len(columns), hidden, [column.mean().item() for column in known], std)
    classes = max(len(target.classes), int(values.max()) + 1)
    if values.ndim == 1:
        return Classifier(code, max(classes, 1), hidden, name)
    if values.ndim == 2 and classes > 2:
        raise InputError(f"labels of an image are 0 or 1 each, got {classes - 1} in the target {name}")
    if values.ndim == 2:
        return MultiLabel(code, name, values.shape[1], hidden)
    return Segmenter(stages, name, classes)


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
