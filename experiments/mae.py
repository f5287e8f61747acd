"""Masked autoencoder: a transformer that sees a quarter of the patches.   python -m experiments.mae

He et al. 2022. The encoder is for other experiments: `python -m experiments.probe RUN` for a linear probe, and
`python -m experiments.classify --model.encoder run:RUN` to train it further with labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ae import Augment, Autoencoder, Data, Recipe, Run, RunConfig, Splits, ViTDecoder, ViTEncoder, fit, report
from ae.cli import cli
from ae.data import ImageSet
from ae.evaluation.inference import evaluating
from ae.evaluation.plots import drawn, grid_picture
from ae.objectives import MAE
from ae.utils.seeding import derive
from ae.utils.validation import Fraction, Positive, Settings

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Model(Settings):
    """Transformers of encoder and decoder."""

    patch: Positive[int] = 4  # side of a patch, in pixels
    width: Positive[int] = 64  # of the encoder's tokens
    depth: Positive[int] = 6  # blocks of the encoder
    heads: Positive[int] = 4  # of the attention
    decoder_width: Positive[int] = 32  # of the decoder's tokens
    decoder_depth: Positive[int] = 2  # blocks of the decoder
    hidden: Fraction = 0.75  # of the patches
    normalised: bool = False  # predict patches after normalisation of each


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of a masked autoencoder."""

    data: Data = Data("mnist", augment=Augment(shift=2))
    model: Model = Model()
    recipe: Recipe = Recipe(
        epochs=20, batch_size=128, optimizer="adamw", lr=0.002, betas=(0.9, 0.95), weight_decay=0.05
    )
    run: RunConfig = RunConfig()


def build(model: Model, data: Splits) -> tuple[Autoencoder, MAE]:
    """Build the encoder for the image shape of `data`, and the objective with the decoder."""
    channels, height, width = data.shape
    grid = -(-height // model.patch), -(-width // model.patch)
    encoder = ViTEncoder(channels, model.patch, model.width, model.depth, model.heads, grid=grid)
    sizes = model.patch, model.decoder_width, model.decoder_depth, model.heads
    decoder = ViTDecoder(channels, model.width, *sizes, grid=grid)
    return Autoencoder(encoder), MAE(decoder, model.hidden, model.normalised)


def restorations(objective: MAE, images: ImageSet, model: Autoencoder) -> "Mapping[str, Image]":
    """Draw images, what the encoder sees of them, and the predictions; the same patches are hidden at each call."""

    def make() -> "Image":
        with evaluating(model, objective, fork_rng=True):
            torch.manual_seed(derive("restorations"))
            device = next(model.parameters()).device
            originals = images.select(slice(14)).to(device).batch(slice(None)).images
            encoder = model.encoder
            assert isinstance(encoder, ViTEncoder)
            seen, restored = objective.restored(encoder, originals, objective.order(encoder, originals))
        rows = torch.stack([originals, seen, restored])
        return grid_picture(rows, "hidden patches, and their predictions", ["original", "visible", "predicted"])

    return drawn({"restorations": make})


def hidden_error(objective: MAE, model: Autoencoder, images: ImageSet) -> dict[str, float]:
    """Mean squared error of hidden pixels of a data set, in this process alone."""
    device, errors, count = next(model.parameters()).device, 0.0, 0
    with evaluating(model, objective, fork_rng=True):
        torch.manual_seed(derive("hidden"))
        for batch in images.to(device).in_order(256):
            errors += len(batch) * objective(model, batch, 0).terms["hidden_mse"].item()
            count += len(batch)
    return {"hidden_mse": errors / count}


def main(config: Config) -> None:
    """Train, test and report one run."""
    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model, objective = build(config.model, data)
    draw = partial(restorations, objective, data.train if data.validation is None else data.validation)
    with Run("mae", config.run, config) as run:
        results = fit(model, objective, data, config.recipe, run, draw)
        report(model, data, results, run, draw(model), partial(hidden_error, objective, model))


if __name__ == "__main__":
    cli(main)
