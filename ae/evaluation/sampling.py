"""Samples, interpolations, traversals and log-likelihoods of a model with a distribution of codes."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.data import ImageSet
from ae.evaluation.inference import encode_batches, evaluating
from ae.models.autoencoder import Autoencoder
from ae.models.generator import Generator
from ae.models.priors import PixelCNN, has_prior, prior_of
from ae.objectives import log_weights
from ae.utils.errors import InputError
from ae.utils.extras import extra
from ae.utils.seeding import derive, reseed
from ae.utils.validation import AtLeast2, Positive, checked_arguments
from ae.weights import find_prior, load_generator, load_prior

Draw = Callable[[int], Tensor]
"""Number of codes -> codes [n ...], drawn from a prior or a mixture."""


@checked_arguments
def samples(
    model: Autoencoder,
    count: Positive[int],
    size: Sequence[Positive[int]] | None = None,
    draw: Draw | None = None,
    batch_size: Positive[int] = 500,
) -> Float[Tensor, "n c h w"]:
    """Decode `count` codes drawn by `draw`, by default from the bottleneck's prior.

    Codes are projected to the nearest codes that the bottleneck can give. Raises InputError if there is no prior.
    """
    draw = draw or prior_of(model.bottleneck).sample
    device = next(model.parameters()).device
    with evaluating(model):
        parts = torch.arange(count).split(batch_size)
        codes = (project(model.bottleneck, draw(len(part)).to(device)) for part in parts)
        return torch.cat([model.decode(z, size) for z in codes])


@checked_arguments
def sample(run: Path | str, count: Positive[int], seed: int = 0) -> Float[Tensor, "n c h w"]:
    """Sample `count` images of the training images' size from the model and the prior of a run, or its generator.

    `run` is as in `ae.load`. A prior over the indices of a quantizer is read from `prior.safetensors` in the run's
    folder, beside the file of weights, or in the repository. The same seed gives the same images. Raises InputError if
    there is no prior.
    """
    model = load_generator(run)
    if model.image_shape is None:
        raise InputError(f"{run} does not say the size of its images: decode codes of the prior by model.decode")
    if isinstance(model, Generator):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return generated(model, count)
    draw = None
    file = find_prior(run)
    if file is not None:
        draw = index_sampler(model, load_prior(file), model.image_shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return samples(model, count, model.image_shape[1:], draw)


@torch.no_grad()
def generated(generator: Generator, count: int, batch_size: int = 500) -> Float[Tensor, "n c h w"]:
    """Draw `count` images of a generator in evaluation mode."""
    with evaluating(generator):
        return torch.cat([generator.sample(len(part)) for part in torch.arange(count).split(batch_size)])


def index_sampler(model: Autoencoder, prior: PixelCNN, image_shape: Sequence[int]) -> Draw:
    """Return a sampler of codes whose indices are drawn from a prior, on the grid of images [c h w] of this shape."""
    bottleneck: Any = model.bottleneck
    device = next(model.parameters()).device
    with evaluating(model):
        indices = model.encode(torch.zeros(1, *image_shape, device=device)).indices
    if indices is None:
        raise InputError(f"{type(bottleneck).__name__} has no indices to draw from a prior: it is no quantizer")
    if indices.ndim != 3:
        raise InputError(f"a PixelCNN draws indices on a grid, and the code has indices {list(indices.shape[1:])}")
    height, width = indices.shape[1:]
    return lambda count: bottleneck.lookup(prior.sample(count, height, width))


def samplers(model: Autoencoder, images: ImageSet, components: int = 10) -> dict[str, Draw]:
    """Return samplers of codes: the bottleneck's `prior`, if it has one, and a `mixture` fitted to the images' codes.

    Samples of the mixture are projected to codes that the bottleneck can give. Without scikit-learn (extra `eval`), or
    with 0 components, there is no mixture.
    """
    draws: dict[str, Draw] = {"prior": prior_of(model.bottleneck).sample} if has_prior(model.bottleneck) else {}
    if components and find_spec("sklearn") and len(images) >= components:
        mixture = Mixture(codes(model, images.select(slice(10_000))), components)
        draws["mixture"] = lambda count: project(model.bottleneck, mixture.sample(count))
    return draws


def project(bottleneck: nn.Module, z: Float[Tensor, "b *code"]) -> Float[Tensor, "b *code"]:
    """Project z to the nearest codes that the bottleneck can give: on a sphere, sparse or quantised."""
    bottleneck_project = getattr(bottleneck, "project", None)
    return z if bottleneck_project is None else bottleneck_project(z.to(_device(bottleneck, z)))


def mix(
    bottleneck: nn.Module, first: Float[Tensor, "b *code"], second: Float[Tensor, "b *code"], fraction: float
) -> Float[Tensor, "b *code"]:
    """Interpolate codes by the bottleneck's `mix`, by default linearly with a projection; `fraction` 0 is the first."""
    bottleneck_mix = getattr(bottleneck, "mix", None)
    if bottleneck_mix is None:
        return project(bottleneck, torch.lerp(first, second, fraction))
    return bottleneck_mix(first, second, fraction)


def _device(bottleneck: nn.Module, z: Tensor) -> torch.device:
    return next((tensor.device for tensor in bottleneck.state_dict().values()), z.device)


def codes(model: Autoencoder, images: ImageSet, batch_size: int = 500) -> Float[Tensor, "n *code"]:
    """Return the decoder's input `z` for each image, on the CPU; noise is the same at every call."""
    with torch.random.fork_rng():
        reseed(next(model.parameters()).device, "codes")
        return torch.cat(list(encode_batches(model, images, lambda _, code: code.z.cpu(), batch_size)))


class Mixture:
    """A Gaussian mixture with full covariances, fitted to codes [n d] as an ex-post prior (extra `eval`).

    Ghosh et al. 2020 (regularised autoencoders), section 4.
    """

    @checked_arguments
    def __init__(self, codes: Float[Tensor, "n d"], components: Positive[int] = 10, seed: int = 0) -> None:
        with extra("eval", "a mixture of Gaussians"):
            from sklearn.mixture import GaussianMixture

        if codes.ndim != 2:
            raise InputError(f"a mixture is fitted to codes [n d] that are vectors, got {list(codes.shape)}")
        if len(codes) < components:
            raise InputError(f"components must be at most the {len(codes)} codes, got {components}")
        random_state = derive("mixture", seed) % 2**32
        self._fitted: Any = GaussianMixture(components, random_state=random_state).fit(codes.double().cpu().numpy())

    def sample(self, count: int) -> Float[Tensor, "count d"]:
        """Draw `count` codes by PyTorch's global generator."""
        weights, means, covariances = (
            torch.from_numpy(array) for array in (self._fitted.weights_, self._fitted.means_, self._fitted.covariances_)
        )
        component = torch.multinomial(weights, count, replacement=True)
        noise = torch.randn(count, means.shape[1], 1, dtype=means.dtype)
        return (means[component] + (torch.linalg.cholesky(covariances)[component] @ noise).squeeze(2)).float()


@checked_arguments
def interpolations(
    model: Autoencoder, first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], steps: AtLeast2[int] = 9
) -> Float[Tensor, "b steps c h w"]:
    """Decode evenly spaced interpolations of the codes' means of each pair, from `first` to `second`.

    Codes are interpolated by `mix`: along great circles on a sphere; linearly, then quantised, by a quantizer.
    """
    if first.shape != second.shape:
        raise InputError(
            f"interpolations need as many images of each, got {list(first.shape)} and {list(second.shape)}"
        )
    with evaluating(model):
        start, end = model.encode(first).mean, model.encode(second).mean
        path = [mix(model.bottleneck, start, end, i / (steps - 1)) for i in range(steps)]
        return torch.stack([model.decode(z, first.shape[-2:]) for z in path], dim=1)


def prior_values(bottleneck: nn.Module, deviations: Sequence[float]) -> Float[Tensor, "latents values"]:
    """Return the mean of each latent under the bottleneck's prior, plus each of `deviations` times its deviation.

    Mean and standard deviation are those of 10,000 samples. Raises InputError without a prior of latent vectors.
    """
    with evaluating(bottleneck):
        z = prior_of(bottleneck).sample(10_000)
    if z.ndim != 2:
        raise InputError(f"latents are of a vector, and the prior's codes are {list(z.shape[1:])}")
    return z.mean(0)[:, None] + z.std(0)[:, None] * torch.tensor(deviations, dtype=z.dtype, device=z.device)


def traversals(
    model: Autoencoder,
    image: Float[Tensor, "c h w"],
    latents: Sequence[int],
    values: Sequence[float] | Float[Tensor, "latents values"],
) -> Float[Tensor, "latents values c h w"]:
    """Decode an image's code with one latent set to each of `values`, for each of `latents`.

    `values` are the same for all of `latents`, or a row for each of them (`prior_values`). The codes are projected to
    codes that the bottleneck can give: of a `Sphere` to norm 1, of `TopK` to `k` non-zeros.
    """
    with evaluating(model):
        z = model.encode(image[None]).mean
        if z.ndim != 2 or not all(0 <= latent < z.shape[1] for latent in latents):
            raise InputError(
                f"a traversal needs latents of a vector, got {list(latents)} of a code {list(z.shape[1:])}"
            )
        rows = torch.as_tensor(values, dtype=z.dtype, device=z.device).expand(len(latents), -1)
        grid = z.expand(*rows.shape, -1).clone()  # [latents values d]
        for row, latent in enumerate(latents):
            grid[row, :, latent] = rows[row]
        z = project(model.bottleneck, grid.flatten(0, 1))
        return model.decode(z, image.shape[-2:]).unflatten(0, tuple(rows.shape))


def has_log_likelihood(model: Autoencoder, images: ImageSet) -> bool:
    """Whether `log_likelihoods` is defined: a posterior, a prior with a density, and a likelihood in nats."""
    device = next(model.parameters()).device
    with evaluating(model):
        code = model.encode(images.select(slice(1)).to(device).batch(slice(None)).images)
    is_in_nats = model.decoder is not None and bool(model.likelihood.in_nats)
    return code.posterior is not None and code.posterior.has_rsample and has_prior(model.bottleneck) and is_in_nats


@checked_arguments
def log_likelihoods(
    model: Autoencoder,
    images: ImageSet,
    samples: Positive[int] = 1000,
    batch_size: Positive[int] = 64,
    at_once: Positive[int] = 20,
) -> Float[Tensor, " n"]:
    """Estimate log p(x) of each image in nats, by importance sampling from its posterior.

    Burda et al. 2016, equation 8: in expectation a lower bound, which tightens with the number of samples. Grey pixels
    count as probabilities. Noise is the same at every call.
    """
    device = next(model.parameters()).device
    parts = []
    with evaluating(model, fork_rng=True):
        for i, batch in enumerate(images.to(device).in_order(batch_size)):
            reseed(device, "log-likelihood", i)
            code = model.encode(batch.images)
            counts = [min(at_once, samples - done) for done in range(0, samples, at_once)]
            weights = torch.cat([log_weights(model, batch.images, code, count) for count in counts])
            parts.append((weights.double().logsumexp(0) - math.log(samples)).cpu())
    return torch.cat(parts)
