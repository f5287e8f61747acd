"""Segmentation of digits with a trained encoder as the backbone.   python -m experiments.segment RUN

Three digits are placed in an image of 56x56 pixels. A small feature pyramid on the encoder's stages classifies each
pixel: background, or a digit 0 to 9. The encoder is frozen, or trained too with --fine-tune; without RUN it is trained
from random weights. Reports mean and standard deviation over seeds.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae import ConvEncoder, Data, ImageSet, InputError, load
from ae.cli import Positional, cli
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


class Segmenter(nn.Module):
    """Feature pyramid on an encoder's stages, with lateral connections from the coarsest level to the image.

    The encoder needs `feature_info`, channels and stride of each stage, and `features(images)`. `coarser` levels are
    added, so that the receptive field covers a digit (Lin et al. 2017, P6 and P7).
    """

    def __init__(self, encoder: ConvEncoder, classes: int, width: int = 32, coarser: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        channels = [*(stage.channels for stage in encoder.feature_info), *(width,) * coarser]
        self.coarser = nn.ModuleList(nn.Conv2d(c, width, 3, stride=2, padding=1) for c in channels[-coarser - 1 : -1])
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.logits = nn.Conv2d(width + encoder.in_channels, classes, 3, padding=1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Images [b c h w] in [0, 1] -> logits of each pixel."""
        levels = self.encoder.features(images)
        for conv in self.coarser:
            levels.append(conv(levels[-1]).relu())
        x: Tensor | None = None
        for features, lateral, smooth in reversed(list(zip(levels, self.lateral, self.smooth, strict=True))):
            level = lateral(features)
            x = level if x is None else level + F.interpolate(x, size=level.shape[-2:])
            x = smooth(x).relu()
        assert x is not None
        return self.logits(torch.cat([F.interpolate(x, size=images.shape[-2:]), images], dim=1))


def pictures(digits: ImageSet, count: int, key: int) -> tuple[Float[Tensor, "b 1 h w"], Int64[Tensor, "b h w"]]:
    """Compose `count` images of three digits, and the class of each pixel; digits and places depend on `key` only."""
    random = generator("pictures", key)
    chosen = torch.randint(len(digits), (count, DIGITS), generator=random)
    corners = torch.randint(SIDE - 28 + 1, (count, DIGITS, 2), generator=random)
    images, classes = torch.zeros(count, 1, SIDE, SIDE), torch.full((count, SIDE, SIDE), BACKGROUND)
    for i in range(count):
        for index, (top, left) in zip(chosen[i], corners[i].tolist(), strict=True):
            batch = digits.batch(index[None])
            place = slice(top, top + 28), slice(left, left + 28)
            images[i, 0][place] = torch.maximum(images[i, 0][place], batch.images[0, 0])
            classes[i][place] = torch.where(batch.images[0, 0] > 0.5, batch.labels[0], classes[i][place])
    return images, classes


def mean_iou(predicted: Int64[Tensor, "b h w"], classes: Int64[Tensor, "b h w"]) -> float:
    """Intersection over union, averaged over the classes present."""
    masks = [(predicted == c, classes == c) for c in classes.unique()]
    return torch.stack([(mask & true).sum() / (mask | true).sum() for mask, true in masks]).mean().item()


def main(config: Config) -> None:
    """Train a pyramid with each seed, and test each on the same images of test digits."""
    data = Data("mnist").load()
    assert data.test is not None
    test = data.test()
    images, classes = pictures(test, config.tested, key=0)
    scores = []
    for seed in config.seeds:
        model = train(config, data.train, seed).eval()
        with torch.no_grad():
            predicted = torch.cat([model(part).argmax(1) for part in images.split(50)])
        scores.append(mean_iou(predicted, classes))
        print(f"seed {seed}  mean IoU {scores[-1]:.4f}", flush=True)
    deviation = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
    print(f"mean IoU {fmean(scores):.4f}{deviation} on {config.tested} images of test digits")


def train(config: Config, digits: ImageSet, seed: int) -> Segmenter:
    """Train a pyramid on the encoder."""
    torch.manual_seed(derive("segment", seed))
    encoder = load(config.run).encoder if config.run else ConvEncoder()
    if not isinstance(encoder, ConvEncoder) or encoder.in_channels != 1:
        raise InputError(f"{config.run} has no ConvEncoder for grey images")
    model = Segmenter(encoder, BACKGROUND + 1).to(memory_format=torch.channels_last)
    encoder.requires_grad_(config.fine_tune or config.run is None)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], config.lr)
    for step in range(config.steps):
        images, classes = pictures(digits, config.batch_size, derive("batch", seed, step))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), classes)
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{config.steps}  cross-entropy {loss.item():.4f} nats a pixel", flush=True)
    return model


if __name__ == "__main__":
    cli(main)
