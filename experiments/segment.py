"""Segmentation of digits with a trained encoder as the backbone.   python -m experiments.segment RUN

Three digits are placed in an image of 56x56 pixels. A small feature pyramid on the encoder's stages classifies each
pixel: background, or a digit 0 to 9. The encoder is frozen, or trained too with --fine-tune; without RUN it is trained
from random weights. Reports mean and standard deviation over seeds.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from jaxtyping import Int64
from torch import Tensor

from ae import (
    Autoencoder,
    ConvEncoder,
    Data,
    ImageSet,
    InputError,
    Joint,
    Recipe,
    Segmenter,
    Splits,
    Streamed,
    fit,
    load,
)
from ae.cli import Positional, cli
from ae.data.items import item_targets
from ae.utils.seeding import derive, generator
from ae.utils.validation import Positive, Settings

SIDE, DIGITS, BACKGROUND = 56, 3, 10


@dataclass(frozen=True)
class Config(Settings):
    """Configuration: the encoder, and its training."""

    run: Positional[Path | None] = None  # run's folder or file of weights (default: an untrained encoder)
    fine_tune: bool = False  # train the encoder too
    steps: Positive[int] = 1000  # of training
    batch_size: Positive[int] = 32  # images per step
    lr: Positive[float] = 0.003  # learning rate of AdamW
    tested: Positive[int] = 500  # number of test images
    seeds: tuple[int, ...] = (0, 1, 2)  # of the pyramid's weights and the images


@dataclass(frozen=True)
class Scenes:
    """Images of three digits, and the class of each pixel as the target `digit`; item i depends on seed and i only."""

    digits: ImageSet
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        random = generator("scene", self.seed, i)
        chosen = torch.randint(len(self.digits), (DIGITS,), generator=random)
        corners = torch.randint(SIDE - 28 + 1, (DIGITS, 2), generator=random)
        image, classes = torch.zeros(1, SIDE, SIDE), torch.full((SIDE, SIDE), BACKGROUND)
        batch = self.digits.batch(chosen)
        for digit, label, (top, left) in zip(batch.images, batch.labels, corners.tolist(), strict=True):
            place = slice(top, top + 28), slice(left, left + 28)
            image[:, *place] = torch.maximum(image[:, *place], digit)
            classes[place] = torch.where(digit[0] > 0.5, label, classes[place])
        return image, {"digit": classes}

    def streamed(self) -> Streamed:
        """The scenes as a data set without labels."""
        labels, read = torch.full((self.count,), -1), item_targets(self[0])
        return Streamed(self, labels, (), (1, SIDE, SIDE), workers=0, read=read)


def mean_iou(predicted: Int64[Tensor, "b h w"], classes: Int64[Tensor, "b h w"]) -> float:
    """Intersection over union, averaged over the classes present."""
    masks = [(predicted == c, classes == c) for c in classes.unique()]
    return torch.stack([(mask & true).sum() / (mask | true).sum() for mask, true in masks]).mean().item()


def main(config: Config) -> None:
    """Train a pyramid with each seed, and test each on the same images of test digits."""
    data = Data("mnist").load()
    assert data.test is not None
    test = list(Scenes(data.test(), config.tested, seed=-1).streamed().in_order(50))
    scores = []
    for seed in config.seeds:
        model = train(config, data.train, seed).cpu().eval()
        with torch.no_grad():
            predicted = torch.cat([model(batch.images).predictions["digit"].argmax(1) for batch in test])
        scores.append(mean_iou(predicted, torch.cat([batch.target("digit") for batch in test])))
        print(f"seed {seed}  mean IoU {scores[-1]:.4f}", flush=True)
    deviation = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
    print(f"mean IoU {fmean(scores):.4f}{deviation} on {config.tested} images of test digits")


def train(config: Config, digits: ImageSet, seed: int) -> Autoencoder:
    """Train a pyramid on the encoder."""
    torch.manual_seed(derive("segment", seed))
    encoder = load(config.run).encoder if config.run else ConvEncoder()
    if not isinstance(encoder, ConvEncoder) or encoder.in_channels != 1:
        raise InputError(f"{config.run} has no ConvEncoder for grey images")
    channels = (1, *(stage.channels for stage in encoder.feature_info))
    encoder.train().requires_grad_(config.fine_tune or config.run is None)
    model = Autoencoder(encoder, heads={"digit": Segmenter(channels, "digit", BACKGROUND + 1)})
    scenes = Scenes(digits, config.steps * config.batch_size, seed).streamed()
    recipe = Recipe(
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer="adamw",
        lr=config.lr,
        schedule="constant",
        seed=seed,
        log_every=100,
    )
    fit(model, Joint(reconstruction=0.0), Splits(scenes), recipe)
    return model


if __name__ == "__main__":
    cli(main)
