"""The Fréchet distance between sets of digits, on features of a digit classifier.

The formula is that of the FID (Heusel et al. 2017, equation 6), with this classifier's features instead of Inception's.
Values are comparable only for one classifier, so the classifier's hash is reported beside them. It was trained once, on
the 55,000 training digits, by

    python -m experiments.classify --model.channels 16 32 64 --model.hidden 64 --model.norm --data.augment.shift 2
        --data.augment.rotate 10 --data.augment.scale 0.1 --recipe.optimizer adamw --recipe.lr 0.005
        --recipe.schedule one-cycle --recipe.epochs 12 --recipe.batch-size 128
"""

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.data import Images, ImageSet, Splits
from ae.evaluation.inference import evaluating
from ae.models.autoencoder import Autoencoder
from ae.models.heads import Classifier
from ae.utils.errors import InputError
from ae.weights import load

CLASSIFIER = Path(__file__).parent / "digits.safetensors"
_DIGITS, _SHAPE = tuple("0123456789"), (1, 28, 28)


def sample_quality(
    samples: Mapping[str, Callable[[int], Tensor]], data: Splits, test: ImageSet
) -> dict[str, float | str]:
    """Measure the Fréchet distance to the training digits, of samples and, as a baseline, of the test digits.

    Each of `samples` maps a number to images [n 1 28 28]. As many are drawn as there are test images, since the bias of
    the estimate falls with their number. Returns `frechet/NAME` and `frechet/test_digits`;
    `frechet/classifier_accuracy` on the test digits; and `frechet/classifier`, the first digits of its file's SHA-256.
    For binarised data, samples and training digits are binarised too. Returns {} unless the images are digits
    [1 28 28].
    """
    train = data.train
    if train.shape != _SHAPE or train.classes != _DIGITS:
        return {}
    if data.binarise and isinstance(train, Images):
        train = train.binarised("train")
    reference = torch.cat([digit_features(batch.images) for batch in train.in_order(500)])
    real = torch.cat([digit_features(batch.images) for batch in test.in_order(500)])
    labelled = test.labels.cpu() >= 0
    is_correct = (_head().fc2(real).argmax(1) == test.labels.cpu())[labelled]
    features = {}
    for name, sample in samples.items():
        images = sample(len(test)).cpu()
        features[name] = digit_features(torch.bernoulli(images) if data.binarise else images)
    return {
        **{f"frechet/{name}": frechet_distance(values, reference) for name, values in features.items()},
        "frechet/test_digits": frechet_distance(real, reference),
        "frechet/classifier_accuracy": is_correct.double().mean().item(),
        "frechet/classifier": hashlib.sha256(CLASSIFIER.read_bytes()).hexdigest()[:12],
    }


def digit_features(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Compute the classifier's hidden activations for digits [n 1 28 28] in [0, 1], white on black, on the CPU."""
    if tuple(images.shape[1:]) != _SHAPE:
        raise InputError(f"the classifier of digits takes images [n 1 28 28], got {list(images.shape)}")
    with evaluating(_classifier()):
        return torch.cat([_head().features(_classifier().encode(part.cpu()).mean) for part in images.split(500)])


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Compute |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets' means and covariances.

    Dowson & Landau 1982. Raises InputError for fewer than two vectors in a set.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"a covariance needs two vectors or more, got {len(first)} and {len(second)}")
    first, second = first.double().cpu(), second.double().cpu()
    means = (first.mean(0) - second.mean(0)).square().sum()
    c1, c2 = (torch.atleast_2d(torch.cov(x.T)) for x in (first, second))
    root = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()  # negative only by rounding
    return (means + c1.trace() + c2.trace() - 2 * root).item()


def digit_encoder() -> nn.Module:
    """A copy of the classifier's encoder, for digits [n 1 28 28], white on black."""
    return deepcopy(_classifier().encoder)


@cache
def _classifier() -> Autoencoder:
    return load(CLASSIFIER).eval()


def _head() -> Classifier:
    head = _classifier().heads["digit"]
    assert isinstance(head, Classifier)
    return head
