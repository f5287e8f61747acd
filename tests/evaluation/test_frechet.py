"""The Fréchet distance, against SciPy and closed forms, and the classifier of its features."""

import numpy as np
import pytest
import torch
from scipy import linalg

from ae import InputError, Splits
from ae.evaluation.frechet import CLASSIFIER, digit_features, frechet_distance, sample_quality
from tests.helpers.held import held


def test_frechet_distance_equals_scipy() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(300, 6) @ torch.randn(6, 6), torch.randn(200, 6) @ torch.randn(6, 6) + 0.5
    c1, c2 = np.cov(first.numpy().T), np.cov(second.numpy().T)
    means = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = means + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_equals_closed_forms() -> None:
    """A set and itself: 0. A shifted copy: the squared shift. A copy scaled by 2: (2 - 1)^2 times the variance."""
    x = torch.randn(500, 3, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 4])) == pytest.approx(25, rel=1e-6)
    centred = x - x.mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(x.var(0).sum().item(), rel=1e-6)
    scalars = torch.randn(100, 1)
    assert frechet_distance(scalars, scalars + 2) == pytest.approx(4, rel=1e-4)
    assert frechet_distance(torch.zeros(5, 2), torch.ones(5, 2)) == pytest.approx(2)  # no variance


def test_sample_quality_ranks_digits_blurred_digits_and_noise(mnist: Splits) -> None:
    train, test = held(mnist.train).select(slice(2000)), held(mnist.train).select(slice(2000, 3000))
    blurred = torch.nn.functional.avg_pool2d(test.batch(slice(None)).images, 5, stride=1, padding=2)
    torch.manual_seed(0)
    samples = {"blurred": lambda n: blurred[:n], "noise": lambda n: torch.rand(n, 1, 28, 28)}
    quality = sample_quality(samples, Splits(train), test)
    assert quality["frechet/test_digits"] < quality["frechet/blurred"] / 5 < quality["frechet/noise"] / 5  # type: ignore[operator]
    assert quality["frechet/classifier_accuracy"] > 0.99  # type: ignore[operator]
    assert len(str(quality["frechet/classifier"])) == 12


def test_digit_features_refuses_other_shapes() -> None:
    assert CLASSIFIER.stat().st_size < 400_000
    assert digit_features(torch.rand(3, 1, 28, 28)).shape == (3, 64)
    with pytest.raises(InputError, match=r"takes images \[n 1 28 28\], got \[3, 3, 28, 28\]"):
        digit_features(torch.rand(3, 3, 28, 28))
    with pytest.raises(InputError, match="two vectors or more, got 1 and 5"):
        frechet_distance(torch.rand(1, 3), torch.rand(5, 3))


def test_sample_quality_is_empty_for_images_that_are_no_digits(digits: Splits) -> None:
    colours = held(digits.train)
    colours = type(colours)(colours.pixels.expand(-1, 3, -1, -1), colours.labels, colours.classes)
    assert sample_quality({}, Splits(colours), colours) == {}


def test_sample_quality_binarises_samples_and_training_digits(mnist: Splits) -> None:
    """Grey training digits, binarised as samples, are as near as the binarised test digits."""
    train, test = held(mnist.train).select(slice(2000)), held(mnist.train).select(slice(2000, 3000))
    grey = {"grey": lambda n: train.batch(slice(n)).images}
    quality = sample_quality(grey, Splits(train, binarise=True), test.binarised("test"))
    assert quality["frechet/grey"] < 2 * quality["frechet/test_digits"]  # type: ignore[operator]
