"""PSNR and SSIM against their equations, and the registry of metrics."""

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from ae.data import Splits
from ae.evaluation.metrics import METRICS, REPORT, TITLE, higher_is_better, is_percentage, psnr, ssim


def reference_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, equation 13, written with scipy: Gaussian window of 11x11, sigma 1.5, whole windows only."""

    def blur(x: Tensor) -> Tensor:
        return torch.from_numpy(ndimage.gaussian_filter(x.double().numpy(), 1.5, truncate=5 / 1.5))[5:-5, 5:-5]

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean().item()


@pytest.mark.parametrize("size", [(11, 11), (12, 17), (28, 28)])
def test_ssim_equals_equation_13(size: tuple[int, int]) -> None:
    a, b = torch.rand(3, 1, *size).double(), torch.rand(3, 1, *size).double()
    b[0] = a[0]
    expected = [reference_ssim(x[0], y[0]) for x, y in zip(a, b, strict=True)]
    assert expected[0] == pytest.approx(1)
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_of_digits_is_accurate_in_float32_and_under_autocast(digits: Splits) -> None:
    """Flat areas, where the variance is the difference of nearly equal numbers."""
    images = digits.train.batch(slice(64)).images
    noisy = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
    expected = ssim(noisy.double(), images.double()).float()
    torch.testing.assert_close(ssim(noisy, images), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ssim(noisy, images), expected, atol=1e-5, rtol=0)


def test_ssim_equals_scikit_image_and_torchmetrics(digits: Splits) -> None:
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    theirs = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    color = torch.cat([digits.train.batch(slice(i, i + 8)).images for i in (0, 8, 16)], 1).double()
    noisy = (color + 0.1 * torch.randn_like(color)).clamp(0, 1)
    ours = ssim(noisy, color)
    for image, other, similarity in zip(noisy.numpy(), color.numpy(), ours.tolist(), strict=True):
        expected = structural_similarity(
            image, other, gaussian_weights=True, use_sample_covariance=False, data_range=1.0, channel_axis=0
        )
        assert similarity == pytest.approx(expected, abs=1e-12)
    _, every = theirs(noisy, color, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(ours, every[..., 5:-5, 5:-5].flatten(1).mean(1))


def test_psnr_is_in_decibels() -> None:
    assert psnr(torch.tensor([1.0, 0.1, 0.001, 0.0])).tolist() == pytest.approx([0, 10, 30, 100])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.99, "99.00%"),
        ("mse", 0.002, "0.00200 per pixel"),
        ("restored/mse", 0.002, "0.00200 per pixel, of corrupted images"),
        ("corrupted/mse", 0.002, "0.00200, of what the model was given"),
        ("psnr", 27.136, "27.14 dB"),
        ("frechet/prior", 12.3456, "12.35 (Fréchet classifier distance of samples)"),
        ("code_size", 3136, "3,136 numbers"),
        ("images_per_second", 1234.5, "1,234"),
    ],
)
def test_metric_text_has_number_unit_and_note(name: str, value: float, text: str) -> None:
    assert METRICS[name].text(value) == text


def test_metrics_hold_every_name_that_is_shown() -> None:
    assert {key.removeprefix("test/") for key in REPORT} | set(TITLE) <= METRICS.keys()


@pytest.mark.parametrize("key", ["accuracy", "best/val/psnr", "test/accuracy/7", "test/frechet/classifier_accuracy"])
def test_higher_is_better_ignores_prefixes_and_classes(key: str) -> None:
    assert higher_is_better(key)


@pytest.mark.parametrize("key", ["val/mse", "test/frechet/prior", "unknown", "log_likelihood_error"])
def test_higher_is_better_is_false_of_errors_and_unknown_metrics(key: str) -> None:
    assert not higher_is_better(key)


def test_is_percentage_holds_for_accuracies_alone() -> None:
    assert is_percentage("probe/linear/accuracy/100")
    assert not is_percentage("test/frechet/classifier_accuracy")
    assert not is_percentage("val/psnr")
