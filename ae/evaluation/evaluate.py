"""Evaluation: metrics of a model on a whole data set, computed the same way in every experiment."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn

from ae.data import Batch, ImageSet
from ae.data.convert import as_images
from ae.data.targets import check_classes, classes_of
from ae.evaluation.inference import evaluating, reusing
from ae.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from ae.functional import is_known, squared_error
from ae.models.autoencoder import Autoencoder, Output
from ae.models.heads import class_count, heads_of, is_classifier, prefix_of
from ae.models.wrappers import unwrapped
from ae.objectives import Corruption, Loss, check_objective, checked_loss
from ae.utils import distributed
from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import AtLeast0, Positive, checked_arguments

_KNOWN, _PREDICTED, _ACTUAL = "known of ", "predicted by ", "actual of "  # of heads, beside the metrics of each image
_warned: WeakSet[nn.Module] = WeakSet()  # models for which the warning was printed
_REST = "rest"  # the objective's total without the terms that have counts


@dataclass(frozen=True)
class Classified:
    """Predicted and actual classes [n] of a data set, -1 where unknown, and the names of the classes."""

    predicted: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class PerImageMetrics:
    """Results of a model for each image of a data set, in its order, on the CPU.

    values      {metric: [n]}; of a head, `HEAD/metric`, or `metric` of the only head
    known       {metric: [n]} where the target of a head's metric is known
    classified  {prefix of a head: Classified} of every head that predicts one class
    terms       the objective's `loss` and its terms, means over the examples of each
    """

    values: dict[str, Float64[Tensor, " n"]]
    known: dict[str, Bool[Tensor, " n"]] = field(default_factory=dict)
    classified: dict[str, Classified] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Average over images; the metrics of a head over the images that have its target, and `accuracy/CLASS`.

        A term of the objective that has the name of a metric is left out: the metric is that of clean images.
        """
        metrics = dict(self.terms)
        for name, value in self.values.items():
            counted = value[self.known[name]] if name in self.known else value
            if len(counted):
                metrics[name] = counted.mean().item()
            else:
                metrics.pop(name, None)
        for prefix, classified in self.classified.items():
            is_right = classified.predicted == classified.labels
            for c, name in enumerate(classified.classes):
                if (classified.labels == c).any():
                    metrics[f"{prefix}accuracy/{name}"] = is_right[classified.labels == c].double().mean().item()
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
    With a head: its loss and metrics over the images that have its target, as `cross_entropy` in nats, `accuracy` and
    `accuracy/CLASS`; with several heads, `HEAD/accuracy` and so on.
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
    batches, spare = _batches_of_process(model, len(images), batch_size)
    indices = [index for _, index in batches + spare]
    with evaluating(*modules, fork_rng=True):
        for (i, _), batch in zip(batches + spare, images.to(device).stream(iter(indices)), strict=True):
            reseed(device, "evaluate", i)
            output = model(batch.images) if isinstance(model, Autoencoder) else None
            if isinstance(model, Autoencoder) and output is not None and not parts:
                _check_heads(model, output, images)
            loss = None
            if objective is not None:
                with reusing(model, batch.images, output):
                    loss = objective(model, batch, step)
            if i < 0:
                continue
            if isinstance(model, Autoencoder) and output is not None:
                for name, value in per_example(model, output, batch).items():
                    parts[name].append(value)
            if loss is not None and not isinstance(loss, Iterator):
                losses[i] = len(batch), checked_loss(loss)
    values = {name: torch.cat(tensors).cpu() for name, tensors in parts.items()}
    values = _gathered(values, torch.cat([index for _, index in batches]) if batches else torch.arange(0))
    known = {name.removeprefix(_KNOWN): values.pop(name) for name in list(values) if name.startswith(_KNOWN)}
    classified = {}
    for name in [name for name in values if name.startswith(_PREDICTED)]:
        prefix = name.removeprefix(_PREDICTED)
        heads = heads_of(model)
        head = heads[prefix.removesuffix("/") or next(iter(heads))]
        predicted, actual = values.pop(name), values.pop(f"{_ACTUAL}{prefix}")
        classified[prefix] = Classified(predicted, actual, classes_of(images, head.target))
    values = {name: value.double() for name, value in values.items()}
    return PerImageMetrics(values, known, classified, _means_of(losses))


def _batches_of_process(
    model: nn.Module, count: int, batch_size: int
) -> tuple[list[tuple[int, Tensor]], list[tuple[int, Tensor]]]:
    """(number, indices) of the batches that this process evaluates, and of at most one spare batch, whose number is -1.

    A sharded model runs equally often in every process: one with fewer batches runs a spare one.
    """
    batches = list(enumerate(torch.arange(count).split(batch_size)))
    mine = batches[distributed.rank() :: distributed.world_size()]
    is_short = len(mine) < len(batches[:: distributed.world_size()])
    return mine, [(-1, batches[0][1])] if is_short and any(map(distributed.is_sharded, model.parameters())) else []


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
    """Compute every metric of the model's output that does not depend on the objective, and classes.

    Of each head: its loss and metrics, where its target is known, and the predicted and actual class.
    """
    values: dict[str, Tensor] = {}
    if output.params is not None:
        values["mse"] = squared_error(output.reconstruction, batch.images)
        values["psnr"] = psnr(values["mse"])
        if min(batch.images.shape[-2:]) >= SSIM_WINDOW:
            values["ssim"] = ssim(output.reconstruction, batch.images)
    heads = heads_of(model)
    for name, head in heads.items():
        if head.target not in batch.targets:
            continue
        prefix, result, target = prefix_of(name, model), output.predictions[name], batch.target(head.target)
        metrics = {head.loss_name: head.loss(result, target), **head.metrics(result, target)}
        for key, value in metrics.items():
            values[f"{prefix}{key}"] = value.float()
            values[f"{_KNOWN}{prefix}{key}"] = is_known(target)
        if is_classifier(head):
            values[f"{_PREDICTED}{prefix}"], values[f"{_ACTUAL}{prefix}"] = result.argmax(1), target
    unmeasured = [name for name in model.heads if name not in heads or heads[name].target not in batch.targets]
    if unmeasured:
        _warn_of_other_heads(model, unmeasured)
    return values


def _check_heads(model: Autoencoder, output: Output, images: ImageSet) -> None:
    """Raise InputError for classes without a logit."""
    for name, head in heads_of(model).items():
        check_classes(images, head.target, name, class_count(head, output.predictions[name]))


def _warn_of_other_heads(model: nn.Module, names: list[str]) -> None:
    """Print once for each model which of several heads are not measured."""
    if model not in _warned and distributed.is_main():
        _warned.add(model)
        reason = "no head with metrics (ae.models.heads), or of a target that the data lack"
        say(f"no metrics of {', '.join(names)}: {reason}", error=True)


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
    parts = distributed.all_gather((batches, weights))
    gathered = dict(sorted(item for part, _ in parts for item in part.items()))
    weights = next((each for _, each in parts if each), {})
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
