"""Evaluation: metrics of a model on a whole data set, computed the same way in every experiment."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor, nn

from ae.data import Batch, ImageSet
from ae.data.convert import as_images
from ae.evaluation.inference import evaluating
from ae.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from ae.functional import cross_entropy, squared_error
from ae.models.autoencoder import Autoencoder, Output
from ae.models.wrappers import unwrapped
from ae.objectives import Corruption, Loss, check_objective, checked_loss, only_head
from ae.utils import distributed
from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import AtLeast0, Positive, checked_arguments

_PREDICTIONS = "predictions"  # of classes, beside the metrics of each image
_REST = "rest"  # the objective's total without the terms that have counts
_warned: WeakSet[nn.Module] = WeakSet()  # models with several heads for which the warning was printed


@dataclass(frozen=True)
class PerImageMetrics:
    """Results of a model for each image of a data set, in its order, on the CPU.

    values       {metric: [n]}
    predictions  [n] the most likely class; None unless the model has exactly one head
    terms        the objective's `loss` and its terms, means over the examples of each
    """

    values: dict[str, Float64[Tensor, " n"]]
    predictions: Int64[Tensor, " n"] | None
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    terms: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Average over images; `cross_entropy`, `accuracy` and `accuracy/CLASS` over labelled images.

        A term of the objective that has the name of a metric is left out: the metric is that of clean images.
        """
        labelled = self.labels >= 0
        metrics = dict(self.terms)
        for name, value in self.values.items():
            counted = value[labelled] if name in ("cross_entropy", "accuracy") else value
            if len(counted):
                metrics[name] = counted.mean().item()
        if "accuracy" in metrics:
            for c, name in enumerate(self.classes):
                if (self.labels == c).any():
                    metrics[f"accuracy/{name}"] = self.values["accuracy"][self.labels == c].mean().item()
        return metrics


@checked_arguments
def evaluate(
    model: nn.Module,
    images: ImageSet | Any,
    objective: Callable[..., Any] | None = None,
    step: AtLeast0[int] = 0,
    batch_size: Positive[int] = 256,
) -> dict[str, float]:
    """Measure a model on a whole data set, in evaluation mode; returns means over images.

    With a decoder: `mse` per pixel, `psnr` in dB, and `ssim` of images from 11x11 pixels, all of clean images.
    With one head: `cross_entropy` in nats, `accuracy` and `accuracy/CLASS`, over labelled images.
    With an objective: `loss`, its total at `step`, and its terms. The mean of each term is over its own examples
    (`Loss.counts`), whatever the batches. Noise is the same at every call. A model that is no Autoencoder has these
    only; an objective of several losses has none, unless it gives a Loss in evaluation mode.

    Images of another kind are converted where the conversion is unambiguous (`ae.data.convert.as_images`).
    """
    return per_image_metrics(model, as_images(images), objective, step, batch_size).means()


@checked_arguments
def per_image_metrics(
    model: nn.Module,
    images: ImageSet,
    objective: Callable[..., Any] | None = None,
    step: AtLeast0[int] = 0,
    batch_size: Positive[int] = 256,
) -> PerImageMetrics:
    """Compute the metrics of `evaluate` for each image, and the predicted classes."""
    model = unwrapped(model)
    if not isinstance(model, Autoencoder) and objective is None:
        raise InputError(f"an evaluation takes an Autoencoder(encoder, decoder, ...), got a {type(model).__name__}")
    if objective is not None:
        check_objective(objective)
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = defaultdict(list)
    losses: dict[int, tuple[int, Loss]] = {}  # number of images and loss of each batch
    modules = [model, objective] if isinstance(objective, nn.Module) else [model]
    batches = list(enumerate(torch.arange(len(images)).split(batch_size)))[
        distributed.rank() :: distributed.world_size()
    ]
    with evaluating(*modules, fork_rng=True):
        for (i, _), batch in zip(batches, images.to(device).stream(index for _, index in batches), strict=True):
            reseed(device, "evaluate", i)
            if isinstance(model, Autoencoder):
                for name, value in per_example(model, model(batch.images), batch).items():
                    parts[name].append(value)
            if objective is not None:
                loss = objective(model, batch, step)
                if not isinstance(loss, Iterator):
                    losses[i] = len(batch), checked_loss(loss)
    values = {name: torch.cat(tensors).cpu() for name, tensors in parts.items()}
    values = _gathered(values, torch.cat([index for _, index in batches]) if batches else torch.arange(0))
    return PerImageMetrics(
        predictions=values.pop(_PREDICTIONS, None),
        values={name: value.double() for name, value in values.items()},
        labels=images.labels.cpu(),
        classes=images.classes,
        terms=_means_of(losses),
    )


@checked_arguments
def restoration(
    model: Autoencoder,
    images: ImageSet,
    corruption: Corruption,
    mean: Float[Tensor, "c h w"],
    batch_size: Positive[int] = 256,
) -> dict[str, float]:
    """Measure how well a model restores corrupted images; returns mean squared errors per pixel in the mask.

    `restored/mse` is of the model's output. Baselines: `corrupted/mse` of its input, `mean_image/mse` of `mean`. The
    corruption is the same at every call.
    """
    device = next(model.parameters()).device
    errors: dict[str, list[Tensor]] = defaultdict(list)
    with evaluating(model, fork_rng=True):
        for i, batch in enumerate(images.to(device).in_order(batch_size)):
            reseed(device, "restoration", i)
            corrupted, mask = corruption(batch.images)
            restored = model(corrupted).reconstruction
            for name, image in {"restored": restored, "corrupted": corrupted, "mean_image": mean.to(device)}.items():
                errors[f"{name}/mse"].append(squared_error(image.expand_as(batch.images), batch.images, mask))
    return {name: torch.cat(tensors).double().mean().item() for name, tensors in errors.items()}


def mean_image(images: ImageSet, batch_size: int = 256) -> Float[Tensor, "c h w"]:
    """Average all images of a data set."""
    total = sum(batch.images.double().sum(0).cpu() for batch in images.in_order(batch_size))
    return (torch.as_tensor(total) / len(images)).float()


def per_example(model: Autoencoder, output: Output, batch: Batch) -> dict[str, Shaped[Tensor, " b"]]:
    """Compute every metric of the model's output that does not depend on the objective, and the predicted class."""
    values: dict[str, Tensor] = {}
    if output.params is not None:
        values["mse"] = squared_error(output.reconstruction, batch.images)
        values["psnr"] = psnr(values["mse"])
        if min(batch.images.shape[-2:]) >= SSIM_WINDOW:
            values["ssim"] = ssim(output.reconstruction, batch.images)
    if len(output.logits) == 1:
        logits = only_head(output.logits)
        values["cross_entropy"] = cross_entropy(logits, batch.labels)
        values[_PREDICTIONS] = logits.argmax(1)
        values["accuracy"] = (values[_PREDICTIONS] == batch.labels).float()
    elif output.logits:
        _warn_of_several_heads(model, list(output.logits))
    return values


def _gathered(values: dict[str, Tensor], index: Int64[Tensor, " m"]) -> dict[str, Tensor]:
    """Gather the results of all processes, in the order of the images; `index` are the images of this process."""
    if distributed.world_size() == 1:
        return values
    parts = [part for part in distributed.all_gather((index, values)) if len(part[0])]
    order = torch.cat([index for index, _ in parts]).argsort()
    return {name: torch.cat([values[name] for _, values in parts])[order] for name in parts[0][1]}


def _means_of(losses: dict[int, tuple[int, Loss]]) -> dict[str, float]:
    """Average the totals and terms of all batches, in all processes, each over its own examples."""
    batches: dict[int, dict[str, tuple[float, float]]] = {}  # of each batch: {term: (mean, count)}
    weights: dict[str, float] = {}
    for i, (images, loss) in losses.items():
        weights = {name: float(weight) for name, weight in loss.weights.items()}
        counts = {name: float(loss.counts.get(name, images)) for name in loss.terms}
        rest = loss.total.item() - sum(weights[name] * loss.terms[name].item() for name in weights)
        batches[i] = {name: (value.item(), counts[name]) for name, value in loss.terms.items()} | {
            _REST: (rest, float(images))
        }
    gathered = dict(sorted(item for part in distributed.all_gather(batches) for item in part.items()))
    weights = next((each for each in distributed.all_gather(weights) if each), {})
    names = list(dict.fromkeys(name for batch in gathered.values() for name in batch))
    means = {}
    for name in names:
        counted = [batch[name] for batch in gathered.values() if name in batch]
        total = sum(count for _, count in counted)
        if total:
            means[name] = sum(mean * count for mean, count in counted) / total
    if _REST in means:
        means["loss"] = means.pop(_REST) + sum(weight * means.get(name, 0.0) for name, weight in weights.items())
    return means


def _warn_of_several_heads(model: nn.Module, heads: list[str]) -> None:
    """Print once for each model that several heads are not measured."""
    if model in _warned or not distributed.is_main():
        return
    _warned.add(model)
    missing = "no cross_entropy, accuracy, per-class metrics or predictions are measured"
    say(f"the model has {len(heads)} heads ({', '.join(heads)}): {missing}", error=True)
