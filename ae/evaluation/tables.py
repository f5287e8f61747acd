"""Pictures and tables of test images: reconstructions, codes, worst examples and the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ae.data import ImageSet
from ae.evaluation.evaluate import PerImageMetrics
from ae.evaluation.plots import class_name, code_picture, drawn, metric_line, pair_pictures, reconstruction_picture
from ae.models.autoencoder import Autoencoder
from ae.tracking.media import Media, Table
from ae.utils.console import say

_ROWS = 32  # of a table of examples
_CELLS = 10_000  # of the confusion matrix: 100 classes


def evaluation_media(model: Autoencoder, images: ImageSet, per_image: PerImageMetrics) -> Media:
    """Draw the pictures and make the tables of `images`; `per_image` holds the metrics of each image.

    pictures  `reconstructions`, some of each class; `code`, its two principal components
    tables    `worst_reconstructed`, by squared error; `misclassified`, by cross-entropy; `confusion`, counts
    """
    plots = {"code": lambda: code_picture(model, images)}
    tables = {}
    if model.decoder is not None:
        title = f"test images: {metric_line(per_image.means())}"
        some = images.select(_of_each_class(images))
        plots["reconstructions"] = lambda: reconstruction_picture(model, some, title=title)
        worst = per_image.values["mse"].argsort(descending=True)
        tables["worst_reconstructed"] = _table(model, images, per_image, worst[:_ROWS])
    pictures = drawn(plots)
    if per_image.predictions is None:
        return Media(pictures, tables)
    worst = per_image.values["cross_entropy"].argsort(descending=True)
    wrong = (per_image.labels >= 0) & (per_image.predictions != per_image.labels)
    tables["misclassified"] = _table(model, images, per_image, worst[wrong[worst]][:_ROWS])
    tables["confusion"] = _confusion(per_image.labels, per_image.predictions, images.classes)
    return Media(pictures, tables)


def _table(model: Autoencoder, images: ImageSet, per_image: PerImageMetrics, index: Int64[Tensor, " m"]) -> Table:
    """Make a row for each image in `index`: picture, label, prediction and errors, as far as they apply."""
    metrics = [name for name in ("mse", "cross_entropy") if name in per_image.values]
    classifies = per_image.predictions is not None
    pairs = drawn({"pairs": lambda: pair_pictures(model, images.select(index))}) if len(index) else {}
    pictures: Sequence[Any] = pairs.get("pairs", [""] * len(index))
    rows = []
    for i, picture in zip(index.tolist(), pictures, strict=True):
        label = images.classes[per_image.labels[i]] if per_image.labels[i] >= 0 else ""
        predicted = None if per_image.predictions is None else int(per_image.predictions[i])
        prediction = [] if predicted is None else [class_name(images.classes, predicted)]
        rows.append((i, picture, label, *prediction, *(per_image.values[name][i].item() for name in metrics)))
    return Table(("index", "picture", "label", *(["prediction"] if classifies else []), *metrics), rows)


def _confusion(labels: Int64[Tensor, " n"], predictions: Int64[Tensor, " n"], classes: tuple[str, ...]) -> Table:
    """Count each pair of actual and predicted class, in the columns of W&B's confusion matrix.

    A matrix of more than 10,000 cells is cut to 10,000 non-zero cells, mistakes first and the largest first; a line on
    stderr says so.
    """
    labelled = labels >= 0
    actual, predicted = labels[labelled], predictions[labelled]
    count = max(len(classes), int(predicted.max()) + 1 if len(predicted) else 0)
    cells, numbers = (actual * count + predicted).unique(return_counts=True)
    if count * count <= _CELLS:
        numbers = torch.zeros(count * count, dtype=torch.int64).scatter(0, cells, numbers)
        cells = torch.arange(count * count)
    else:
        is_mistake = cells // count != cells % count
        order = (is_mistake * (len(actual) + 1) + numbers).argsort(descending=True, stable=True)
        kept = min(len(order), _CELLS)
        cells, numbers = cells[order[:kept]], numbers[order[:kept]]
        summary = f"{kept:,} of {len(order):,} cells that are not 0, mistakes first, of {count:,} x {count:,}"
        say(f"table confusion: {summary}", error=True)
    names = [class_name(classes, i) for i in range(count)]
    rows = [(names[i // count], names[i % count], n) for i, n in zip(cells.tolist(), numbers.tolist(), strict=True)]
    return Table(("Actual", "Predicted", "nPredictions"), rows)


def _of_each_class(images: ImageSet) -> Int64[Tensor, " n"]:
    """Return an order of the images: the first of each class, then the second of each class, and so on."""
    labels = images.labels.cpu()
    by_label = labels.argsort(stable=True)
    first = torch.searchsorted(labels[by_label], labels[by_label])
    rank = torch.zeros_like(labels).scatter(0, by_label, torch.arange(len(labels)) - first)
    return (rank * (len(images.classes) + 1) + labels).argsort()
