"""Warnings of trivial solutions: the same reconstruction for every image, or the same class."""

from typing import Any

import torch
from torch import Tensor

from ae.data import ImageSet
from ae.evaluation.inference import evaluating
from ae.models.autoencoder import Autoencoder
from ae.models.heads import heads_of, is_classifier
from ae.models.likelihoods import Likelihood

_COUNT = 200  # images, evenly spaced
_SAME = 0.05  # deviation of reconstructions between images, over that of the images, below which they are the same
_CAUSE = "the training was too short, or its learning rate too high or too low"


def collapse_warnings(model: Autoencoder, images: ImageSet) -> list[str]:
    """Return a line for each trivial solution: constant reconstructions, one class of a head, one code of a quantizer.

    The lines name the likely cause. Some images of the data set are looked at, evenly spaced.
    """
    count = min(_COUNT, len(images))
    if count < 2:
        return []
    chosen = images.select(torch.arange(count) * len(images) // count)
    batch = chosen.to(next(model.parameters()).device).batch(slice(None))
    with evaluating(model):
        output = model(batch.images)
    warnings = []
    if output.mean is not None and _deviation(output.mean) < _SAME * _deviation(batch.images):
        likelihood: Any = model.likelihood
        name = likelihood.name if isinstance(likelihood, Likelihood) else "reconstruction"
        warnings.append(f"the reconstructions of all images are the same ({name}): {_CAUSE}, or the code is not used")
    for name, head in heads_of(model).items():
        if not is_classifier(head) or head.target not in batch.targets:
            continue
        actual, predicted = batch.target(head.target), output.predictions[name].argmax(1)
        if predicted.unique().numel() == 1 and actual[actual >= 0].unique().numel() > 1:
            warnings.append(f"the head {name} predicts class {int(predicted[0])} for all images: {_CAUSE}")
    if output.code.indices is not None and output.code.indices.unique().numel() == 1:
        warnings.append(f"the quantizer gives the same code everywhere: {_CAUSE}")
    return warnings


def _deviation(images: Tensor) -> float:
    """Root mean square of the deviations of each pixel between images."""
    return images.float().var(0, correction=0).mean().sqrt().item()
