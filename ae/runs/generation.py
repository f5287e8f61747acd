"""The report of a generative model: samples, interpolations, traversals, and their measurements."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ae.data import ImageSet, Splits
from ae.evaluation.frechet import sample_quality
from ae.evaluation.inference import evaluating
from ae.evaluation.plots import drawn, grid_picture
from ae.evaluation.sampling import (
    Draw,
    has_log_likelihood,
    interpolations,
    log_likelihoods,
    prior_values,
    samplers,
    samples,
    traversals,
)
from ae.models.autoencoder import Autoencoder
from ae.models.priors import has_prior
from ae.runs.report import report
from ae.runs.run import Run
from ae.utils.distributed import runs_for_main
from ae.utils.seeding import derive
from ae.utils.validation import AtLeast0, Settings, check_unread

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS, _COLUMNS, _PAIRS, _LATENTS = 8, 10, 8, 8
_DEVIATIONS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Generation(Settings):
    """Samples and their measurements for a trained model with a latent vector."""

    components: AtLeast0[int] = 10  # of a Gaussian mixture fitted to codes, as a second prior to sample from; 0: none
    likelihood_samples: AtLeast0[int] = 100  # codes an image for log-likelihoods; needs a posterior; 0: none
    likelihood_images: AtLeast0[int] = 1000  # of the test images, evenly spaced, for log-likelihoods

    def check_no_likelihood(self, why: str) -> None:
        """Raise InputError if log-likelihoods are configured for a model that has none, for the reason `why`."""
        check_unread(self, ["likelihood_samples", "likelihood_images"], f"{why}: leave it out")

    def report(self, model: Autoencoder, data: Splits, results: dict[str, float], run: Run) -> None:
        """Run `ae.report` with the pictures of `gallery` and the metrics of samples.

        Codes are drawn from the bottleneck's prior and from the mixture. The summary has `test/frechet/...` of
        `sample_quality`. For a model with a Gaussian posterior, a prior and a likelihood in nats, it has
        `test/log_likelihood` in nats per image, and `test/log_likelihood_error`, its standard error over images.
        """
        if not runs_for_main(model):
            report(model, data, results, run)
            return
        draws = samplers(model, data.train, self.components)

        def measure(test: ImageSet) -> dict[str, Any]:
            torch.manual_seed(derive("samples"))
            generators = {name: partial(samples, model, size=data.shape[1:], draw=draw) for name, draw in draws.items()}
            metrics: dict[str, Any] = dict(sample_quality(generators, data, test))
            if self.likelihood_samples and self.likelihood_images and has_log_likelihood(model, test):
                count = min(self.likelihood_images, len(test))
                some = test.select(torch.arange(count) * len(test) // count)
                values = log_likelihoods(model, some, self.likelihood_samples)
                metrics["log_likelihood"] = values.mean().item()
                metrics["log_likelihood_error"] = (values.std(correction=0) / count**0.5).item()
            return metrics

        images = data.train if data.validation is None else data.validation
        report(model, data, results, run, gallery(model, images, draws), measure)


def gallery(model: Autoencoder, images: ImageSet, draws: Mapping[str, Draw]) -> "dict[str, Image]":
    """Draw a grid of samples for each of `draws`, interpolations and latent traversals.

    Interpolations are between pairs of the first 16 of `images`. Traversals set each of the first 8 latents of the
    first image to the prior's mean and up to 3 of its deviations below and above; without a prior, from -3 to 3. The
    codes are the same at every call.
    """
    size, device = images.shape[1:], next(model.parameters()).device
    originals = images.select(slice(2 * _PAIRS)).to(device).batch(slice(None)).images
    pairs = len(originals) // 2

    def sample_grid(name: str, draw: Draw) -> "Image":
        torch.manual_seed(derive("gallery", name))
        images = samples(model, _ROWS * _COLUMNS, size, draw)
        return grid_picture(images.unflatten(0, (_ROWS, _COLUMNS)), f"codes from the {name}")

    def interpolation_grid() -> "Image":
        return grid_picture(
            interpolations(model, originals[:pairs], originals[pairs : 2 * pairs]), "between two images"
        )

    def traversal_grid() -> "Image":
        with evaluating(model):
            latents = range(min(_LATENTS, model.encode(originals[:1]).mean[0].numel()))
        torch.manual_seed(derive("gallery", "traversals"))
        values: Any = _DEVIATIONS
        if has_prior(model.bottleneck):
            values = prior_values(model.bottleneck, _DEVIATIONS)[: len(latents)]
        rows = traversals(model, originals[0], latents, values)
        unit = "the prior's mean plus deviations" if has_prior(model.bottleneck) else "the value"
        note = ", then projected to a code" if hasattr(model.bottleneck, "project") else ""
        title = f"one image, a latent a row set to {unit} above{note}"
        return grid_picture(rows, title, [f"latent {i}" for i in latents], [f"{value:g}" for value in _DEVIATIONS])

    plots = {f"samples-{name}": partial(sample_grid, name, draw) for name, draw in draws.items()}
    if pairs:
        plots["interpolations"] = interpolation_grid  # type: ignore[assignment]
    return drawn({**plots, "traversals": traversal_grid})
