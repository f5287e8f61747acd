"""Probes of a representation: linear probe, nearest neighbours and k-means on frozen codes (extra `eval`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import ImageSet
from ae.data.splits import keep_labels
from ae.evaluation.inference import encode_batches
from ae.models.autoencoder import Autoencoder
from ae.utils.errors import InputError
from ae.utils.extras import extra
from ae.utils.seeding import derive

_INVERSE_L2 = (0.001, 0.01, 0.1, 1.0)  # candidates for C of scikit-learn's logistic regression
_ITERATIONS = 200


@dataclass(frozen=True)
class Codes:
    """Codes [n d] and labels [n] of a data set; -1 = unlabelled."""

    values: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]

    def labelled(self) -> "Codes":
        """Return the labelled examples."""
        return Codes(self.values[self.labels >= 0], self.labels[self.labels >= 0])


def codes_of(model: Autoencoder, images: ImageSet, batch_size: int = 256) -> Codes:
    """Return the mean of each image's code, flattened, in order, on the CPU."""
    means = encode_batches(model, images, lambda _, code: code.mean.flatten(1).cpu(), batch_size)
    return Codes(torch.cat(list(means)), images.labels.cpu())


def linear_probe(train: Codes, validation: Codes, test: Codes) -> float:
    """Return the test accuracy of multinomial logistic regression on standardised codes.

    The strength of the L2 penalty is chosen on `validation`.
    """
    with extra("eval", "a linear probe"):
        from sklearn.linear_model import LogisticRegression

    train, validation, test = _standardised(train.labelled(), validation.labelled(), test.labelled())
    if len(train.labels.unique()) < 2:
        raise InputError("a probe needs labels of two classes at least")
    candidates = [
        LogisticRegression(C=c, max_iter=_ITERATIONS).fit(train.values.numpy(), train.labels.numpy())
        for c in _INVERSE_L2
    ]
    best = max(candidates, key=lambda candidate: candidate.score(validation.values.numpy(), validation.labels.numpy()))
    return float(best.score(test.values.numpy(), test.labels.numpy()))


def nearest_neighbours(train: Codes, test: Codes, k: int = 5) -> float:
    """Return the test accuracy of the `k` nearest training codes by cosine similarity, by majority vote."""
    with extra("eval", "a probe by nearest neighbours"):
        from sklearn.neighbors import KNeighborsClassifier

    train, test = train.labelled(), test.labelled()
    classifier = KNeighborsClassifier(min(k, len(train.labels)), metric="cosine", algorithm="brute")
    classifier.fit(train.values.numpy(), train.labels.numpy())
    return float(classifier.score(test.values.numpy(), test.labels.numpy()))


def clusters(codes: Codes, classes: int, seed: int) -> tuple[float, float]:
    """Compare k-means clusters, as many as there are classes, with the labels; returns NMI and adjusted Rand index."""
    with extra("eval", "k-means"):
        from sklearn.cluster import KMeans
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    codes = codes.labelled()
    (standardised,) = _standardised(codes)
    random_state = derive("clusters", seed) % 2**32
    assignments = KMeans(classes, n_init=4, random_state=random_state).fit_predict(standardised.values.numpy())
    labels = codes.labels.numpy()
    return float(normalized_mutual_info_score(labels, assignments)), float(adjusted_rand_score(labels, assignments))


def probe(
    model: Autoencoder,
    train: ImageSet,
    validation: ImageSet,
    test: ImageSet,
    labels: Sequence[int] = (100, 1000),
    repeats: int = 3,
) -> dict[str, list[float]]:
    """Run every probe on a model's frozen code; returns the values of each metric, by random seed of the probe.

    `linear/accuracy` and `knn/accuracy` use all labels. `linear/accuracy/N` uses N labels, with `repeats` choices of
    them. `kmeans/nmi` and `kmeans/ari` are of the test images, with `repeats` initialisations.
    """
    train_codes, validation_codes, test_codes = (codes_of(model, images) for images in (train, validation, test))
    metrics: dict[str, list[float]] = {
        "linear/accuracy": [linear_probe(train_codes, validation_codes, test_codes)],
        "knn/accuracy": [nearest_neighbours(train_codes, test_codes)],
    }
    for count in labels:
        subsets = [Codes(train_codes.values, keep_labels(train, count, seed).labels.cpu()) for seed in range(repeats)]
        metrics[f"linear/accuracy/{count}"] = [linear_probe(few, validation_codes, test_codes) for few in subsets]
    scores = [clusters(test_codes, len(test.classes), seed) for seed in range(repeats)]
    metrics["kmeans/nmi"], metrics["kmeans/ari"] = ([pair[i] for pair in scores] for i in (0, 1))
    return metrics


def neighbour_map(codes: Codes, seed: int = 0) -> Float[Tensor, "n 2"]:
    """Embed codes in the plane by t-SNE (van der Maaten & Hinton 2008)."""
    with extra("eval", "a map by t-SNE"):
        from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes.values) - 1) / 3)
    embedded = TSNE(random_state=derive("map", seed) % 2**32, perplexity=perplexity, init="pca").fit_transform(
        codes.values.numpy()
    )
    return torch.from_numpy(embedded).float()


def _standardised(first: Codes, *others: Codes) -> tuple[Any, ...]:
    """Standardise each latent by its mean and standard deviation in the first set of codes."""
    mean, std = first.values.mean(0), first.values.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return tuple(Codes((codes.values - mean) / std, codes.labels) for codes in (first, *others))
