"""The Fréchet distance, against scipy and closed forms; and the classifier that its features are of."""

import numpy as np
import pytest
import torch
from scipy import linalg

from ae import InputError, Splits
from ae.evaluation.frechet import CLASSIFIER, digit_features, frechet_distance, sample_quality
from tests.helpers.held import held


def test_it_is_scipys() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(300, 6) @ torch.randn(6, 6), torch.randn(200, 6) @ torch.randn(6, 6) + 0.5
    c1, c2 = np.cov(one.numpy().T), np.cov(other.numpy().T)
    means = (one.mean(0) - other.mean(0)).square().sum().item()
    expected = means + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-4)


def test_closed_forms() -> None:
    """Of a set and itself 0; of a shifted one the shift's square; of one that is twice as wide (2 - 1)^2 variance."""
    x = torch.randn(500, 3, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 4])) == pytest.approx(25, rel=1e-6)
    centred = x - x.mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(x.var(0).sum().item(), rel=1e-6)
    one = torch.randn(100, 1)
    assert frechet_distance(one, one + 2) == pytest.approx(4, rel=1e-4)  # one feature; no spread in these:
    assert frechet_distance(torch.zeros(5, 2), torch.ones(5, 2)) == pytest.approx(2)


def test_noise_and_blur_are_further_from_digits_than_digits_are(mnist: Splits) -> None:
    train, test = held(mnist.train).select(slice(2000)), held(mnist.train).select(slice(2000, 3000))
    blurred = torch.nn.functional.avg_pool2d(test.batch(slice(None)).images, 5, stride=1, padding=2)
    torch.manual_seed(0)
    samples = {"blurred": lambda n: blurred[:n], "noise": lambda n: torch.rand(n, 1, 28, 28)}
    found = sample_quality(samples, Splits(train), test)
    assert found["frechet/test_digits"] < found["frechet/blurred"] / 5 < found["frechet/noise"] / 5  # type: ignore[operator]
    assert found["frechet/classifier_accuracy"] > 0.99  # type: ignore[operator]
    assert len(str(found["frechet/classifier"])) == 12


def test_it_is_small_and_knows_what_it_takes() -> None:
    assert CLASSIFIER.stat().st_size < 400_000
    assert digit_features(torch.rand(3, 1, 28, 28)).shape == (3, 64)
    with pytest.raises(InputError, match=r"takes images \[n 1 28 28\], got \[3, 3, 28, 28\]"):
        digit_features(torch.rand(3, 3, 28, 28))
    with pytest.raises(InputError, match="two vectors or more, got 1 and 5"):
        frechet_distance(torch.rand(1, 3), torch.rand(5, 3))


def test_nothing_is_said_of_other_images(digits: Splits) -> None:
    colours = held(digits.train)
    colours = type(colours)(colours.pixels.expand(-1, 3, -1, -1), colours.labels, colours.classes)
    assert sample_quality({}, Splits(colours), colours) == {}


def test_where_pixels_are_drawn_so_are_those_that_are_compared(mnist: Splits) -> None:
    """Grey samples of the very digits are as near as the test digits, all of them black or white."""
    train, test = held(mnist.train).select(slice(2000)), held(mnist.train).select(slice(2000, 3000))
    grey = {"grey": lambda n: train.batch(slice(n)).images}
    found = sample_quality(grey, Splits(train, binarise=True), test.binarised("test"))
    assert found["frechet/grey"] < 2 * found["frechet/test_digits"]  # type: ignore[operator]
