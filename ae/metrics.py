"""Metrics: the same numbers, computed the same way, in every experiment."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.checks import unchecked_range
from ae.data import Batch, Images
from ae.losses import cross_entropy, squared_error
from ae.model import Autoencoder
from ae.objectives import Loss, only_head
from ae.seeding import derive

_SSIM_WINDOW = 11


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


@torch.no_grad()
def evaluate(
    model: Autoencoder,
    images: Images,
    objective: Callable[[Autoencoder, Batch, int], Loss] | None = None,
    step: int = 0,
    batch_size: int = 256,
) -> dict[str, float]:
    """The model's metrics on a whole data set, in evaluation mode: means over images of

    `mse` per pixel, `psnr` dB and, from 11 pixels up, `ssim`, of clean images, where there is a decoder;
    `cross_entropy` nats, `accuracy`, and `accuracy/CLASS`, over labelled images, where there is one head;
    and `loss`, the objective's total at `step`, if one is given. Noise in it is the same at every call.
    """
    device = next(model.parameters()).device
    values: dict[str, list[Tensor]] = defaultdict(list)
    labels = []
    with evaluating(model), unchecked_range(), torch.random.fork_rng():
        torch.manual_seed(derive("evaluate"))
        for batch in images.to(device).in_order(batch_size):
            for name, value in _per_example(model, batch).items():
                values[name].append(value)
            if objective is not None:
                values["loss"].append(objective(model, batch, step).total.expand(len(batch)))
            labels.append(batch.labels)
    per_example = {name: torch.cat(parts).cpu().double() for name, parts in values.items()}
    label = torch.cat(labels).cpu()
    metrics = {}
    for name, value in per_example.items():
        chosen = value[label >= 0] if name in ("cross_entropy", "accuracy") else value
        if len(chosen):
            metrics[name] = chosen.mean().item()
    if "accuracy" in metrics:
        for c, name in enumerate(images.classes):
            if (label == c).any():
                metrics[f"accuracy/{name}"] = per_example["accuracy"][label == c].mean().item()
    return metrics


def _per_example(model: Autoencoder, batch: Batch) -> dict[str, Float[Tensor, " b"]]:
    output = model(batch.images)
    values = {}
    if output.pixels is not None:
        values["mse"] = squared_error(output.reconstruction, batch.images)
        values["psnr"] = psnr(values["mse"])
        if min(batch.images.shape[-2:]) >= _SSIM_WINDOW:
            values["ssim"] = ssim(output.reconstruction, batch.images)
    if len(output.logits) == 1:
        logits = only_head(output.logits)
        values["cross_entropy"] = cross_entropy(logits, batch.labels)
        values["accuracy"] = (logits.argmax(1) == batch.labels).float()
    return values


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is in evaluation mode; after, each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
