"""The registry of metrics (unit, direction, number format, where each is shown), and PSNR and SSIM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ae.functional import at_least_float32

SSIM_WINDOW = 11  # pixels


@dataclass(frozen=True)
class Metric:
    """Direction and format of a metric.

    format            format specification of the value
    unit              text after the value
    note              text after the unit, with its punctuation
    higher_is_better  whether the best value is the highest
    progress          format of name and value in a progress line; empty: not shown there
    """

    format: str = ".4g"
    unit: str = ""
    note: str = ""
    higher_is_better: bool = False
    progress: str = ""

    def text(self, value: int | float) -> str:
        """Format a value with its unit and its note."""
        return " ".join(filter(None, (f"{value:{self.format}}", self.unit))) + self.note


METRICS = {
    "loss": Metric(progress="loss {:.4g}"),
    "mse": Metric(".5f", "per pixel", progress="mse {:.4g}"),
    "bernoulli": Metric(unit="nats", progress="bernoulli {:.4g}"),
    "gaussian": Metric(unit="nats", progress="gaussian {:.4g}"),
    "discretized_logistic": Metric(unit="nats", progress="discretized_logistic {:.4g}"),
    "categorical": Metric(unit="nats", progress="categorical {:.4g}"),
    "psnr": Metric(".2f", "dB", higher_is_better=True),
    "ssim": Metric(".4f", higher_is_better=True),
    "cross_entropy": Metric(".4f", "nats"),
    "accuracy": Metric(".2%", higher_is_better=True, progress="accuracy {:.2%}"),
    "squared_error": Metric(note=", in units of the target's deviation", progress="squared_error {:.4g}"),
    "absolute_error": Metric(),
    "binary_cross_entropy": Metric(unit="nats", progress="binary_cross_entropy {:.4g}"),
    "label_accuracy": Metric(".2%", higher_is_better=True),
    "exact_match": Metric(".2%", higher_is_better=True),
    "pixel_cross_entropy": Metric(".4f", "nats a pixel", progress="pixel_cross_entropy {:.4g}"),
    "pixel_accuracy": Metric(".2%", higher_is_better=True),
    "iou": Metric(".4f", note=", mean over the classes of an image", higher_is_better=True),
    "restored/mse": Metric(".5f", "per pixel", ", of corrupted images"),
    "hidden_mse": Metric(".5f", "per hidden pixel", progress="hidden_mse {:.4g}"),
    "corrupted/mse": Metric(".5f", note=", of what the model was given"),
    "mean_image/mse": Metric(".5f", note=", of the mean image"),
    "log_likelihood": Metric(".2f", "nats", higher_is_better=True),
    "log_likelihood_error": Metric(".2f", "nats", ", a standard error over images"),
    "frechet/prior": Metric(".2f", note=" (Fréchet classifier distance of samples)"),
    "frechet/mixture": Metric(".2f"),
    "frechet/reconstructions": Metric(".2f", note=" (Fréchet classifier distance of reconstructions)"),
    "sharpness": Metric(
        ".3f", note=" (differences of neighbouring pixels, over those of the images)", higher_is_better=True
    ),
    "frechet/samples": Metric(".2f"),
    "frechet/test_digits": Metric(".2f"),
    "classifier_accuracy": Metric(higher_is_better=True),
    "prior/nats": Metric(".2f", note=" an image, of the prior over codes"),
    "code_size": Metric(",", "numbers"),
    "code_bits": Metric(",.0f", "bits"),
    "parameters": Metric(","),
    "seconds": Metric(".1f"),
    "images_per_second": Metric(",.0f", higher_is_better=True, progress="{:,.0f} images/s"),
}
"""Metrics by name, in the order of a progress line."""

TITLE = ("mse", "psnr", "accuracy")
"""The metrics in titles of pictures, in order."""

REPORT = (
    "test/accuracy",
    "test/cross_entropy",
    "test/mse",
    "test/restored/mse",
    "test/hidden_mse",
    "test/corrupted/mse",
    "test/mean_image/mse",
    "test/psnr",
    "test/ssim",
    "test/log_likelihood",
    "test/log_likelihood_error",
    "test/frechet/prior",
    "test/frechet/mixture",
    "test/frechet/samples",
    "test/frechet/reconstructions",
    "test/sharpness",
    "test/frechet/test_digits",
    "test/prior/nats",
    "code_size",
    "code_bits",
    "parameters",
    "seconds",
    "images_per_second",
)
"""The keys of a summary in the report of a run, in order."""


HEAD = (
    "accuracy",
    "cross_entropy",
    "squared_error",
    "absolute_error",
    "binary_cross_entropy",
    "label_accuracy",
    "exact_match",
    "pixel_cross_entropy",
    "pixel_accuracy",
    "iou",
)
"""The metrics of heads, which have the prefix `HEAD/` where a model has several."""


def is_of_head(key: str) -> bool:
    """Whether a key such as `test/digit/accuracy` is a metric of one of several heads."""
    parts = key.split("/")
    return len(parts) == 3 and parts[2] in HEAD


def is_plain(key: str) -> bool:
    """Whether a key with its split is of a whole data set, as `test/mse`, and not of a class, as `test/accuracy/7`."""
    return key.count("/") == 1 or is_of_head(key)


def with_prefix(split: Literal["train", "val", "test"], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Prefix metrics with their split, as in every history, summary and dashboard: `train/mse`, ..."""
    return {f"{split}/{name}": value for name, value in metrics.items()}


def higher_is_better(key: str) -> bool:
    """Whether a metric is best when it is high; `key` may have prefixes and a class, as in `val/accuracy/7`."""
    return any(metric.higher_is_better for metric in _metrics_in(key))


def is_percentage(key: str) -> bool:
    """Whether a metric is printed in per cent; `key` as in `higher_is_better`."""
    return any(metric.format.endswith("%") for metric in _metrics_in(key))


def _metrics_in(key: str) -> list[Metric]:
    names = key.split("/")
    if is_of_head(key):  # not by the head's name, which may be that of a metric
        return [METRICS[names[-1]]]
    return [METRICS[name] for name in names if name in METRICS]


def sharpness(images: Float[Tensor, "n c h w"]) -> float:
    """Mean absolute difference of horizontal and vertical neighbours; blurred images have less."""
    images = at_least_float32(images)
    rows, columns = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return ((rows.sum() + columns.sum()) / (rows.numel() + columns.numel())).item()


def psnr(mse: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of images in [0, 1], from their mean squared errors; at most 100."""
    return -10 * mse.clamp(min=1e-10).log10()


def ssim(reconstruction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of images in [0, 1], the mean over all whole windows of 11x11 pixels.

    Wang et al. 2004, equations 13 to 17: a Gaussian window of standard deviation 1.5, as two products with banded
    matrices, one along each axis.
    """
    x, y = at_least_float32(reconstruction), at_least_float32(target)
    with torch.autocast(x.device.type, enabled=False):
        moments = torch.stack([x, y, x * x, y * y, x * y]) @ _windows(x.shape[-1], x)  # [5 b c h w-10]
        mean_x, mean_y, xx, yy, xy = moments.mT @ _windows(x.shape[-2], x)  # each [b c w-10 h-10]
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    denominator = (mean_x.square() + mean_y.square() + c1) * (xx - mean_x.square() + yy - mean_y.square() + c2)
    return (numerator / denominator).flatten(1).mean(1)


def _windows(size: int, like: Tensor) -> Float[Tensor, "size windows"]:
    """The weights of each pixel in each whole window along an axis; a column sums to one."""
    offsets = torch.arange(size, device=like.device)[:, None] - torch.arange(size - SSIM_WINDOW + 1, device=like.device)
    distance = (offsets - SSIM_WINDOW // 2).to(like.dtype)
    weights = (-0.5 * (distance / 1.5).square()).exp()
    inside = (offsets >= 0) & (offsets < SSIM_WINDOW)
    weights = torch.where(inside, weights, 0)
    return weights / weights.sum(0)
