"""Is a representation any good? Simple learners on frozen codes, by scikit-learn (extra `eval`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import ImageSet
from ae.data.splits import keep_labels
from ae.evaluation.metrics import evaluating
from ae.models.autoencoder import Autoencoder
from ae.utils.errors import InputError
from ae.utils.seeding import derive
from ae.utils.validation import unchecked_range

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of the linear probe, as scikit-learn's C; chosen on the validation images
_ITERATIONS = 200


@dataclass(frozen=True)
class Codes:
    """The codes of a data set [n d], and its labels [n]; -1 = unlabelled."""

    values: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]

    def labelled(self) -> "Codes":
        """Those that have a label."""
        return Codes(self.values[self.labels >= 0], self.labels[self.labels >= 0])


@torch.no_grad()
def codes_of(model: Autoencoder, images: ImageSet, batch_size: int = 256) -> Codes:
    """The mean of each image's code, flattened, in order, on the CPU; the model in evaluation mode."""
    device = next(model.parameters()).device
    with evaluating(model), unchecked_range():
        parts = [model.encode(batch.images).mean.flatten(1).cpu() for batch in images.to(device).in_order(batch_size)]
    return Codes(torch.cat(parts), images.labels.cpu())


def linear_probe(train: Codes, validation: Codes, test: Codes) -> float:
    """The accuracy of multinomial logistic regression on standardised codes, its L2 chosen on `validation`."""
    from sklearn.linear_model import LogisticRegression

    train, validation, test = _standardised(train.labelled(), validation.labelled(), test.labelled())
    if len(train.labels.unique()) < 2:
        raise InputError("a probe needs labels of two classes at least")
    fitted = [
        LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(train.values.numpy(), train.labels.numpy())
        for strength in _STRENGTHS
    ]
    best = max(fitted, key=lambda one: one.score(validation.values.numpy(), validation.labels.numpy()))
    return float(best.score(test.values.numpy(), test.labels.numpy()))


def nearest_neighbours(train: Codes, test: Codes, k: int = 5) -> float:
    """The accuracy of the majority of the `k` training codes with the highest cosine similarity."""
    from sklearn.neighbors import KNeighborsClassifier

    train, test = train.labelled(), test.labelled()
    learner = KNeighborsClassifier(min(k, len(train.labels)), metric="cosine", algorithm="brute")
    learner.fit(train.values.numpy(), train.labels.numpy())
    return float(learner.score(test.values.numpy(), test.labels.numpy()))


def clusters(codes: Codes, classes: int, seed: int) -> tuple[float, float]:
    """How well k-means, told only the number of classes, finds them: NMI and adjusted Rand index."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    codes = codes.labelled()
    (standardised,) = _standardised(codes)
    random_state = derive("clusters", seed) % 2**32
    found = KMeans(classes, n_init=4, random_state=random_state).fit_predict(standardised.values.numpy())
    labels = codes.labels.numpy()
    return float(normalized_mutual_info_score(labels, found)), float(adjusted_rand_score(labels, found))


def probe(
    model: Autoencoder,
    train: ImageSet,
    validation: ImageSet,
    test: ImageSet,
    labels: Sequence[int] = (100, 1000),
    repeats: int = 3,
) -> dict[str, list[float]]:
    """Every probe of a model's frozen code: each metric, once for each of the probe's own random choices.

    `linear/accuracy` and `knn/accuracy` with all labels; `linear/accuracy/N` with N of them, `repeats` times with
    others; `kmeans/nmi` and `kmeans/ari` of the test images, `repeats` times from other starts.
    """
    coded = codes_of(model, train), codes_of(model, validation), codes_of(model, test)
    metrics: dict[str, list[float]] = {
        "linear/accuracy": [linear_probe(*coded)],
        "knn/accuracy": [nearest_neighbours(coded[0], coded[2])],
    }
    for count in labels:
        kept = [Codes(coded[0].values, keep_labels(train, count, seed).labels.cpu()) for seed in range(repeats)]
        metrics[f"linear/accuracy/{count}"] = [linear_probe(few, *coded[1:]) for few in kept]
    found = [clusters(coded[2], len(test.classes), seed) for seed in range(repeats)]
    metrics["kmeans/nmi"], metrics["kmeans/ari"] = ([pair[i] for pair in found] for i in (0, 1))
    return metrics


def neighbour_map(codes: Codes, seed: int = 0) -> Float[Tensor, "n 2"]:
    """Codes in the plane, so that neighbours stay neighbours: t-SNE (van der Maaten & Hinton 2008)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes.values) - 1) / 3)
    placed = TSNE(random_state=derive("map", seed) % 2**32, perplexity=perplexity, init="pca").fit_transform(
        codes.values.numpy()
    )
    return torch.from_numpy(placed).float()


def _standardised(first: Codes, *others: Codes) -> tuple[Any, ...]:
    """The codes with mean 0 and variance 1 in each number, as measured on the first."""
    mean, std = first.values.mean(0), first.values.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return tuple(Codes((codes.values - mean) / std, codes.labels) for codes in (first, *others))
