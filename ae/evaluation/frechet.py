"""A Fréchet distance between sets of digits, on features of the package's own classifier.

It has the formula of the FID (Heusel et al. 2017, equation 6) and other features than Inception's: its values compare
with each other alone, and by one classifier; so what it was measured with stands beside every value. The classifier
was made once, of the 55,000 training digits, by

    python -m experiments.classify --model.channels 16 32 64 --model.hidden 64 --model.norm --data.augment.shift 2
        --data.augment.rotate 10 --data.augment.scale 0.1 --recipe.optimizer adamw --recipe.lr 0.005
        --recipe.schedule one-cycle --recipe.epochs 12 --recipe.batch-size 128
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ae.data import Images, ImageSet, Splits
from ae.models.autoencoder import Autoencoder
from ae.models.heads import Classifier
from ae.utils.errors import InputError
from ae.utils.validation import unchecked_range
from ae.weights import load

CLASSIFIER = Path(__file__).parent / "digits.safetensors"
_DIGITS, _SHAPE = tuple("0123456789"), (1, 28, 28)


def sample_quality(
    samples: Mapping[str, Callable[[int], Tensor]], data: Splits, test: ImageSet
) -> dict[str, float | str]:
    """How far samples are from the training digits; and, to compare with, how far the test digits are.

    Each of `samples` gives so many images [n 1 28 28]; it is asked for as many as there are test images, as the
    estimate has a bias that falls with their number. `frechet/NAME` and `frechet/test_digits`, distances;
    `frechet/classifier_accuracy` on these test digits, and `frechet/classifier`, the beginning of its file's SHA-256.
    Where the data's pixels are drawn black or white, so are those of samples and training digits. {} where the images
    are no digits of 1x28x28.
    """
    train = data.train
    if train.shape != _SHAPE or train.classes != _DIGITS:
        return {}
    if data.binarise and isinstance(train, Images):
        train = train.binarised("train")
    reference = torch.cat([digit_features(batch.images) for batch in train.in_order(500)])
    real = torch.cat([digit_features(batch.images) for batch in test.in_order(500)])
    labelled = test.labels.cpu() >= 0
    right = (_head().fc2(real).argmax(1) == test.labels.cpu())[labelled]
    made = {}
    for name, sample in samples.items():
        images = sample(len(test)).cpu()
        made[name] = digit_features(torch.bernoulli(images) if data.binarise else images)
    return {
        **{f"frechet/{name}": frechet_distance(found, reference) for name, found in made.items()},
        "frechet/test_digits": frechet_distance(real, reference),
        "frechet/classifier_accuracy": right.double().mean().item(),
        "frechet/classifier": hashlib.sha256(CLASSIFIER.read_bytes()).hexdigest()[:12],
    }


@torch.no_grad()
def digit_features(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Activations of the classifier's hidden layer for digits [n 1 28 28] in [0, 1], white on black; on the CPU."""
    if tuple(images.shape[1:]) != _SHAPE:
        raise InputError(f"the classifier of digits takes images [n 1 28 28], got {list(images.shape)}")
    with unchecked_range():
        return torch.cat([_head().features(_classifier().encode(part.cpu()).mean) for part in images.split(500)])


def frechet_distance(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the two sets' means and covariances (Dowson & Landau 1982).

    Raises InputError for fewer than two of either.
    """
    if min(len(one), len(other)) < 2:
        raise InputError(f"a covariance needs two vectors or more, got {len(one)} and {len(other)}")
    one, other = one.double().cpu(), other.double().cpu()
    means = (one.mean(0) - other.mean(0)).square().sum()
    c1, c2 = (torch.atleast_2d(torch.cov(x.T)) for x in (one, other))
    root = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()  # they are 0 or more but for rounding
    return (means + c1.trace() + c2.trace() - 2 * root).item()


@cache
def _classifier() -> Autoencoder:
    return load(CLASSIFIER).eval()


def _head() -> Classifier:
    head = _classifier().heads["digit"]
    assert isinstance(head, Classifier)
    return head
