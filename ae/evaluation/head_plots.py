"""Pictures of what heads predict."""

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import Batch, ImageSet
from ae.evaluation.inference import encode_batches, evaluating
from ae.evaluation.plots import grid_picture, scatter_picture
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code

if TYPE_CHECKING:
    from PIL.Image import Image


def segmentation_picture(model: Autoencoder, images: ImageSet, name: str, count: int = 10) -> "Image":
    """Draw images, the classes of their pixels in a target, and those that the head `name` predicts, a colour each."""
    head: Any = model.heads[name]
    device = next(model.parameters()).device
    batch = images.select(slice(count)).to(device).batch(slice(None))
    with evaluating(model):
        predicted = model(batch.images).predictions[name].argmax(1)
    rows = [batch.images.expand(-1, 3, -1, -1) if batch.images.shape[1] == 1 else batch.images]
    rows += [_coloured(classes, head.classes) for classes in (batch.target(head.target), predicted)]
    names = ("image", "target", name)
    return grid_picture(torch.stack([row[:, :3] for row in rows]), f"classes of {head.target}", names)


def _coloured(classes: Int64[Tensor, "b h w"], count: int) -> Float[Tensor, "b 3 h w"]:
    """A colour for each class, equally spaced hues of equal lightness; white where the class is unknown."""
    hue = 2 * math.pi * torch.arange(count) / count
    colours = torch.stack([0.5 + 0.4 * (hue - offset).cos() for offset in (0.0, 2.1, 4.2)], dim=1)
    colours = torch.cat([colours, torch.ones(1, 3)]).to(classes.device)  # index -1: white
    return colours[classes].movedim(-1, 1)


def regression_picture(model: Autoencoder, images: ImageSet, name: str, count: int = 1000) -> "Image":
    """Plot the numbers that the head `name` predicts against the target, of the first `count` images that have one.

    Both axes have the same range. Dots are coloured by label.
    """
    head: Any = model.heads[name]
    some = images.select(slice(count))

    def pair(batch: Batch, code: Code) -> Float[Tensor, "b 2"]:
        return torch.stack([batch.target(head.target), model.predict(code)[name][:, 0]], dim=1)

    points = torch.cat(list(encode_batches(model, some, pair))).cpu()  # [n 2]
    known = ~points[:, 0].isnan()
    points, labels = points[known], some.labels.cpu()[known]
    low, high = points.amin().item(), points.amax().item()
    corners = torch.tensor([[low, low], [high, high]])  # of the diagonal, on which a prediction is right
    points, labels = torch.cat([points, corners]), torch.cat([labels, torch.tensor([-1, -1])])
    axes = [f"{axis}, {low:.4g} to {high:.4g}" for axis in (f"target {head.target}", "predicted")]
    return scatter_picture(points, labels, images.classes, f"{name}: {int(known.sum()):,} test images", axes)
