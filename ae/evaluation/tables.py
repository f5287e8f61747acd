"""Pictures and tables of test images: reconstructions, codes, worst examples and the confusion matrix."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ae.data import ImageSet
from ae.evaluation.evaluate import Classified, PerImageMetrics
from ae.evaluation.head_plots import regression_picture, segmentation_picture
from ae.evaluation.plots import (
    class_name,
    code_picture,
    drawn,
    metric_line,
    pair_pictures,
    reconstruction_picture,
)
from ae.models.autoencoder import Autoencoder
from ae.models.heads import Regressor, heads_of, prefix_of
from ae.models.segmenter import Segmenter
from ae.tracking.media import Media, Table
from ae.utils.console import say

_ROWS = 32  # of a table of examples
_CELLS = 10_000  # of the confusion matrix: 100 classes


def evaluation_media(model: Autoencoder, images: ImageSet, per_image: PerImageMetrics) -> Media:
    """Draw the pictures and make the tables of `images`; `per_image` holds the metrics of each image.

    pictures  `reconstructions`, some of each class; `code`, its two principal components; of a head that segments,
              `segmentation`; of a head that predicts a number, `regression`
    tables    `worst_reconstructed`, by squared error; of a head that classifies, `misclassified`, by cross-entropy, and
              `confusion`, counts; of any other head, `worst_predicted`, by its loss

    Names of a head among several end with its name: `confusion-HEAD`.
    """
    plots = {"code": lambda: code_picture(model, images)}
    tables = {}
    if model.decoder is not None:
        title = f"test images: {metric_line(per_image.means())}"
        some = images.select(_of_each_class(images))
        plots["reconstructions"] = lambda: reconstruction_picture(model, some, title=title)
        worst = per_image.values["mse"].argsort(descending=True)
        tables["worst_reconstructed"] = _table(model, images, per_image, worst[:_ROWS])
    for name, head in heads_of(model).items():
        prefix = prefix_of(name, model)
        suffix = f"-{name}" if prefix else ""
        key = f"{prefix}{head.loss_name}"
        order = per_image.values[key].argsort(descending=True)
        known = per_image.known[key]
        if prefix in per_image.classified:
            classified = per_image.classified[prefix]
            wrong = known & (classified.predicted != classified.labels)
            shown = order[wrong[order]][:_ROWS]
            tables[f"misclassified{suffix}"] = _table(model, images, per_image, shown, prefix)
            tables[f"confusion{suffix}"] = _confusion(classified)
        else:
            tables[f"worst_predicted{suffix}"] = _table(model, images, per_image, order[known[order]][:_ROWS], prefix)
        if isinstance(head, Segmenter):
            plots[f"segmentation{suffix}"] = partial(segmentation_picture, model, images, name)
        if isinstance(head, Regressor) and head.count == 1 and known.any():
            plots[f"regression{suffix}"] = partial(regression_picture, model, images, name)
    return Media(drawn(plots), tables)


def _table(
    model: Autoencoder,
    images: ImageSet,
    per_image: PerImageMetrics,
    index: Int64[Tensor, " m"],
    prefix: str | None = None,
) -> Table:
    """Make a row for each image in `index`: picture, class, predicted class and errors, as far as they apply.

    Of the head with this prefix; by default of the first head that classifies.
    """
    prefix = prefix if prefix is not None else next(iter(per_image.classified), "")
    classified = per_image.classified.get(prefix)
    metrics = [name for name in per_image.values if name == "mse" or (prefix and name.startswith(prefix))]
    metrics += [name for name in ("cross_entropy",) if not prefix and classified is not None]
    if not prefix and classified is None:
        metrics += [name for name in per_image.known if name not in metrics]
    pairs = drawn({"pairs": lambda: pair_pictures(model, images.select(index))}) if len(index) else {}
    pictures: Sequence[Any] = pairs.get("pairs", [""] * len(index))
    labels, classes = images.labels.cpu(), images.classes
    if classified is not None:
        labels, classes = classified.labels, classified.classes
    rows = []
    for i, picture in zip(index.tolist(), pictures, strict=True):
        label = class_name(classes, int(labels[i])) if labels[i] >= 0 else ""
        prediction = [] if classified is None else [class_name(classes, int(classified.predicted[i]))]
        rows.append((i, picture, label, *prediction, *(per_image.values[name][i].item() for name in metrics)))
    return Table(("index", "picture", "label", *(["prediction"] if classified is not None else []), *metrics), rows)


def _confusion(classified: Classified) -> Table:
    """Count each pair of actual and predicted class, in the columns of W&B's confusion matrix.

    A matrix of more than 10,000 cells is cut to 10,000 non-zero cells, mistakes first and the largest first; a line on
    stderr says so.
    """
    labelled, classes = classified.labels >= 0, classified.classes
    actual, predicted = classified.labels[labelled], classified.predicted[labelled]
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
