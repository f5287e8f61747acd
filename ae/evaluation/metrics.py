"""Metrics: the same numbers, computed the same way, in every experiment."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ae.data import Batch, ImageSet
from ae.data.convert import as_images
from ae.functional import cross_entropy, squared_error
from ae.models.autoencoder import Autoencoder, Output
from ae.models.wrappers import unwrapped
from ae.objectives import Corruption, Loss, check_objective, checked_loss, only_head
from ae.utils import distributed
from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import AtLeast0, Positive, checked_arguments, unchecked_range

_SSIM_WINDOW = 11
_PART = "loss/"  # of the parts of the objective's total, until they are added
_told: WeakSet[nn.Module] = WeakSet()  # the models of which it was said that their heads are not measured
_HIGHER = ("accuracy", "psnr", "ssim", "images_per_second", "log_likelihood", "classifier_accuracy")


def psnr(mse: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of images in [0, 1], from their mean squared errors; at most 100."""
    return -10 * mse.clamp(min=1e-10).log10()


def ssim(reconstruction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of images in [0, 1], the mean over all whole windows of 11x11 pixels.

    Wang et al. 2004, equations 13 to 17.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, everywhere = structural_similarity_index_measure(
        reconstruction, target, data_range=1.0, reduction="none", return_full_image=True
    )
    border = _SSIM_WINDOW // 2  # where it looks at mirrored pixels
    return everywhere[..., border:-border, border:-border].flatten(1).mean(1)


@dataclass(frozen=True)
class Examined:
    """Per-image results of a model on a data set, in its order, on the CPU.

    values       by metric, one number [n] an image
    predictions  [n] the most likely class; None where the model has not exactly one head
    """

    values: dict[str, Float64[Tensor, " n"]]
    predictions: Int64[Tensor, " n"] | None
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """The means over images; of `cross_entropy` and `accuracy`, over labelled ones, and `accuracy/CLASS` too."""
        labelled = self.labels >= 0
        metrics = {}
        for name, value in self.values.items():
            chosen = value[labelled] if name in ("cross_entropy", "accuracy") else value
            if len(chosen):
                metrics[name] = chosen.mean().item()
        if "accuracy" in metrics:
            for c, name in enumerate(self.classes):
                if (self.labels == c).any():
                    metrics[f"accuracy/{name}"] = self.values["accuracy"][self.labels == c].mean().item()
        return metrics


@checked_arguments
def evaluate(
    model: nn.Module,
    images: ImageSet | Any,
    objective: Callable[[Autoencoder, Batch, int], Loss] | None = None,
    step: AtLeast0[int] = 0,
    batch_size: Positive[int] = 256,
) -> dict[str, float]:
    """The model's metrics on a whole data set, in evaluation mode: means over images of

    `mse` per pixel, `psnr` dB and, from 11 pixels up, `ssim`, of clean images, where there is a decoder;
    `cross_entropy` nats, `accuracy`, and `accuracy/CLASS`, over labelled images, where there is one head;
    and `loss`, the objective's total at `step`, if one is given: the mean of each term is over the examples that it is
    of (`Loss.counts`), whatever batches they are in. Noise in it is the same at every call.

    Images of another kind are converted where they can mean one thing only (`ae.data.convert.as_images`).
    """
    return examine(model, as_images(images), objective, step, batch_size).means()


@torch.no_grad()
@checked_arguments
def examine(
    model: nn.Module,
    images: ImageSet,
    objective: Callable[[Autoencoder, Batch, int], Loss] | None = None,
    step: AtLeast0[int] = 0,
    batch_size: Positive[int] = 256,
) -> Examined:
    """The metrics of `evaluate`, image by image, and the predicted classes."""
    autoencoder = unwrapped(model)
    if not isinstance(autoencoder, Autoencoder):
        raise InputError(
            f"an evaluation takes an Autoencoder(encoder, decoder, ...), got a {type(autoencoder).__name__}"
        )
    if objective is not None:
        check_objective(objective)
    device = next(autoencoder.parameters()).device
    values: dict[str, list[Tensor]] = defaultdict(list)
    predictions = []
    judged = [autoencoder, objective] if isinstance(objective, nn.Module) else [autoencoder]
    batches = list(enumerate(torch.arange(len(images)).split(batch_size)))[
        distributed.rank() :: distributed.world_size()
    ]
    with evaluating(*judged), unchecked_range(), torch.random.fork_rng():
        for (i, _), batch in zip(batches, images.to(device).stream(index for _, index in batches), strict=True):
            reseed(device, "evaluate", i)
            output = autoencoder(batch.images)
            for name, value in _per_example(output, batch).items():
                values[name].append(value)
            if len(output.logits) == 1:
                predictions.append(only_head(output.logits).argmax(1))
            elif output.logits:
                _say_what_is_missing(autoencoder, list(output.logits))
            if objective is not None:
                for name, value in _parts(checked_loss(objective(autoencoder, batch, step)), len(batch)).items():
                    values[name].append(value)
    found = {name: torch.cat(parts).cpu().double() for name, parts in values.items()}
    if predictions:
        found["predictions"] = torch.cat(predictions).cpu()
    found = _in_order(found, torch.cat([index for _, index in batches]) if batches else torch.arange(0))
    if objective is not None:
        found = _with_loss(found)
    return Examined(
        predictions=found.pop("predictions", None),
        values=found,
        labels=images.labels.cpu(),
        classes=images.classes,
    )


@torch.no_grad()
@checked_arguments
def restoration(
    model: Autoencoder,
    images: ImageSet,
    corruption: Corruption,
    mean: Float[Tensor, "c h w"],
    batch_size: Positive[int] = 256,
) -> dict[str, float]:
    """How well a model restores corrupted images: mean squared errors a pixel, over those that the corruption scores.

    `restored/mse` of what the model makes of them; to compare with, `corrupted/mse` of the images as they are given to
    it, and `mean_image/mse` of `mean`, which knows nothing of the image. The corruption is the same at every call.
    """
    device = next(model.parameters()).device
    errors: dict[str, list[Tensor]] = defaultdict(list)
    with evaluating(model), unchecked_range(), torch.random.fork_rng():
        for i, batch in enumerate(images.to(device).in_order(batch_size)):
            reseed(device, "restoration", i)
            corrupted, mask = corruption(batch.images)
            restored = model(corrupted).reconstruction
            for name, image in {"restored": restored, "corrupted": corrupted, "mean_image": mean.to(device)}.items():
                errors[f"{name}/mse"].append(squared_error(image.expand_as(batch.images), batch.images, mask))
    return {name: torch.cat(parts).double().mean().item() for name, parts in errors.items()}


def mean_image(images: ImageSet, batch_size: int = 256) -> Float[Tensor, "c h w"]:
    """The mean of all images."""
    total = sum(batch.images.double().sum(0).cpu() for batch in images.in_order(batch_size))
    return (torch.as_tensor(total) / len(images)).float()


def _in_order(found: dict[str, Tensor], places: Int64[Tensor, " m"]) -> dict[str, Tensor]:
    """Gather per-image results of all processes, in the order of the images."""
    if distributed.world_size() == 1:
        return found
    parts = [part for part in distributed.gathered((places, found)) if len(part[0])]
    order = torch.cat([places for places, _ in parts]).argsort()
    return {name: torch.cat([values[name] for _, values in parts])[order] for name in parts[0][1]}


def _parts(loss: Loss, images: int) -> dict[str, Float[Tensor, " b"]]:
    """A batch's total in parts, each repeated for every image: those of terms with counts of their own, and the rest.

    Keys: (term, "value") what it adds to the total, (term, "share") how many of its examples there are for each image.
    """
    parts, rest = {}, loss.total
    for name, weight in loss.weights.items():
        value = weight * loss.terms[name]
        parts[f"{_PART}value/{name}"] = value
        parts[f"{_PART}share/{name}"] = torch.as_tensor(loss.counts[name], device=value.device) / images
        rest = rest - value
    return {name: value.expand(images) for name, value in {f"{_PART}rest": rest, **parts}.items()}


def _with_loss(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values with `loss` in the place of its parts: numbers whose mean is the total over the whole set."""
    values = {name: value for name, value in found.items() if not name.startswith(_PART)}
    loss = found[f"{_PART}rest"]
    for name in [name.removeprefix(f"{_PART}value/") for name in found if name.startswith(f"{_PART}value/")]:
        value, share = found[f"{_PART}value/{name}"], found[f"{_PART}share/{name}"]
        if share.sum() > 0:
            loss = loss + value * share / share.mean()
    return {**values, "loss": loss}


def _say_what_is_missing(model: nn.Module, heads: list[str]) -> None:
    """Say, once for each model, that several heads are not measured."""
    if model in _told or not distributed.is_main():
        return
    _told.add(model)
    missing = "no cross_entropy, accuracy, per-class metrics or predictions are measured"
    say(f"the model has {len(heads)} heads ({', '.join(heads)}): {missing}", error=True)


def _per_example(output: Output, batch: Batch) -> dict[str, Float[Tensor, " b"]]:
    values = {}
    if output.params is not None:
        values["mse"] = squared_error(output.reconstruction, batch.images)
        values["psnr"] = psnr(values["mse"])
        if min(batch.images.shape[-2:]) >= _SSIM_WINDOW:
            values["ssim"] = ssim(output.reconstruction, batch.images)
    if len(output.logits) == 1:
        logits = only_head(output.logits)
        values["cross_entropy"] = cross_entropy(logits, batch.labels)
        values["accuracy"] = (logits.argmax(1) == batch.labels).float()
    return values


def with_prefix(split: Literal["train", "val", "test"], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics under the keys that they have in every history, summary and dashboard: `train/mse`, ..."""
    return {f"{split}/{name}": value for name, value in metrics.items()}


def higher_is_better(key: str) -> bool:
    """Whether a metric, with any prefix and class, is one of those that are best when they are high."""
    return any(part in _HIGHER for part in key.split("/"))


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in evaluation mode; after, each of their modules is in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
