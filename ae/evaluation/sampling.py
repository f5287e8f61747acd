"""What a model with a distribution of codes can make and tell: samples, interpolations, traversals, log-likelihoods."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.data import ImageSet
from ae.evaluation.metrics import evaluating
from ae.models.autoencoder import Autoencoder
from ae.objectives import log_weights
from ae.utils.errors import InputError
from ae.utils.seeding import derive, reseed
from ae.utils.validation import AtLeast2, Positive, checked_arguments, unchecked_range

Draw = Callable[[int], Tensor]
"""How many -> so many codes [n ...]: a prior, or what stands for one."""


@checked_arguments
@torch.no_grad()
def samples(
    model: Autoencoder,
    count: Positive[int],
    size: Sequence[Positive[int]] | None = None,
    draw: Draw | None = None,
    batch_size: Positive[int] = 500,
) -> Float[Tensor, "n c h w"]:
    """`count` images from codes that `draw` gives, or the bottleneck's prior; raises InputError where it has none.

    Codes that the bottleneck can't give are projected to the nearest one that it can.
    """
    draw = draw or getattr(model.bottleneck, "sample", None)
    if draw is None:
        raise InputError(f"{type(model.bottleneck).__name__} has no prior to sample from: fit a mixture to its codes")
    device = next(model.parameters()).device
    with evaluating(model):
        parts = torch.arange(count).split(batch_size)
        codes = (project(model.bottleneck, draw(len(part)).to(device)) for part in parts)
        return torch.cat([model.decode(z, size) for z in codes])


def standard_normal(model: Autoencoder) -> Draw:
    """Codes from N(0, I), or from the prior of a bottleneck that has one of its own, as of a `Sphere`.

    It is what an objective makes codes alike to. Raises InputError where the model's code is no vector of known size.
    """
    sample = getattr(model.bottleneck, "sample", None)
    if sample is not None:
        return sample
    latent = getattr(model.bottleneck, "latent", None)
    if not isinstance(latent, int):
        raise InputError(f"a prior needs a latent vector, as of Dense: {type(model.bottleneck).__name__} has none")
    return lambda count: torch.randn(count, latent)


def draws_of(model: Autoencoder, images: ImageSet, prior: Draw | None = None, components: int = 10) -> dict[str, Draw]:
    """How to draw codes for samples: `prior`, by default the bottleneck's, and a `mixture` fitted to the images' codes.

    What the mixture gives is projected to codes that the bottleneck can give.

    Without scikit-learn (extra `eval`), or for no `components`, the prior alone.
    """
    prior = prior or getattr(model.bottleneck, "sample", None)
    draws = {"prior": prior} if prior else {}
    if components and find_spec("sklearn") and len(images) >= components:
        mixture = Mixture(codes(model, images.select(slice(10_000))), components)
        draws["mixture"] = lambda count: project(model.bottleneck, mixture.sample(count))
    return draws


def project(bottleneck: nn.Module, z: Float[Tensor, "b *code"]) -> Float[Tensor, "b *code"]:
    """The codes that the bottleneck can give which are nearest to z: on a sphere, with few numbers, quantised."""
    own = getattr(bottleneck, "project", None)
    return z if own is None else own(z.to(_device(bottleneck, z)))


def mix(
    bottleneck: nn.Module, one: Float[Tensor, "b *code"], other: Float[Tensor, "b *code"], fraction: float
) -> Float[Tensor, "b *code"]:
    """The codes at `fraction` of the way from one to the other: by the bottleneck, or linearly and then projected."""
    own = getattr(bottleneck, "mix", None)
    return project(bottleneck, torch.lerp(one, other, fraction)) if own is None else own(one, other, fraction)


def _device(bottleneck: nn.Module, z: Tensor) -> torch.device:
    return next((tensor.device for tensor in bottleneck.state_dict().values()), z.device)


@torch.no_grad()
def codes(model: Autoencoder, images: ImageSet, batch_size: int = 500) -> Float[Tensor, "n *code"]:
    """The images' codes as the decoder reads them (`z`), on the CPU; noise in them is the same at every call."""
    device = next(model.parameters()).device
    with evaluating(model), unchecked_range(), torch.random.fork_rng():
        reseed(device, "codes")
        return torch.cat([model.encode(batch.images).z.cpu() for batch in images.to(device).in_order(batch_size)])


class Mixture:
    """A mixture of Gaussians with full covariances, fitted to codes [n d]: a prior for models without a good one.

    Ghosh et al. 2020 (regularised autoencoders), section 4. By scikit-learn (extra `eval`).
    """

    @checked_arguments
    def __init__(self, codes: Float[Tensor, "n d"], components: Positive[int] = 10, seed: int = 0) -> None:
        from sklearn.mixture import GaussianMixture

        if codes.ndim != 2:
            raise InputError(f"a mixture is fitted to codes [n d] that are vectors, got {list(codes.shape)}")
        if len(codes) < components:
            raise InputError(f"components must be at most the {len(codes)} codes, got {components}")
        random_state = derive("mixture", seed) % 2**32
        self._fitted: Any = GaussianMixture(components, random_state=random_state).fit(codes.double().cpu().numpy())

    def sample(self, count: int) -> Float[Tensor, "count d"]:
        """`count` codes, each from a component drawn by its weight; by PyTorch's generator."""
        weights, means, factors = (
            torch.from_numpy(array) for array in (self._fitted.weights_, self._fitted.means_, self._fitted.covariances_)
        )
        chosen = torch.multinomial(weights, count, replacement=True)
        noise = torch.randn(count, means.shape[1], 1, dtype=means.dtype)
        return (means[chosen] + (torch.linalg.cholesky(factors)[chosen] @ noise).squeeze(2)).float()


@checked_arguments
@torch.no_grad()
def interpolations(
    model: Autoencoder, first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], steps: AtLeast2[int] = 9
) -> Float[Tensor, "b steps c h w"]:
    """Images between each pair, their codes' means mixed evenly; the first and the last are the reconstructions.

    Codes are mixed as `mix` says: on a sphere along great circles, of a quantiser linearly and then quantised.
    """
    if first.shape != second.shape:
        raise InputError(
            f"interpolations need as many images of each, got {list(first.shape)} and {list(second.shape)}"
        )
    with evaluating(model), unchecked_range():
        one, other = model.encode(first).mean, model.encode(second).mean
        mixed = [mix(model.bottleneck, one, other, i / (steps - 1)) for i in range(steps)]
        return torch.stack([model.decode(z, first.shape[-2:]) for z in mixed], dim=1)


@torch.no_grad()
def traversals(
    model: Autoencoder, image: Float[Tensor, "c h w"], latents: Sequence[int], values: Sequence[float]
) -> Float[Tensor, "latents values c h w"]:
    """An image's code with one latent set to each of `values`, for each of `latents`: what that latent says.

    The changed codes are projected to those that the bottleneck can give: of a `Sphere` to length 1, of `TopK` to `k`
    numbers.
    """
    with evaluating(model), unchecked_range():
        z = model.encode(image[None]).mean
        if z.ndim != 2 or not all(0 <= latent < z.shape[1] for latent in latents):
            raise InputError(
                f"a traversal needs latents of a vector, got {list(latents)} of a code {list(z.shape[1:])}"
            )
        changed = z.repeat(len(latents) * len(values), 1).unflatten(0, (len(latents), len(values)))
        for row, latent in enumerate(latents):
            changed[row, :, latent] = torch.tensor(values, dtype=z.dtype, device=z.device)
        z = project(model.bottleneck, changed.flatten(0, 1))
        return model.decode(z, image.shape[-2:]).unflatten(0, (len(latents), len(values)))


@checked_arguments
@torch.no_grad()
def log_likelihoods(
    model: Autoencoder,
    images: ImageSet,
    samples: Positive[int] = 1000,
    batch_size: Positive[int] = 64,
    at_once: Positive[int] = 20,
) -> Float[Tensor, " n"]:
    """log p(x) of each image in nats, by importance sampling with so many codes from its posterior; Bernoulli pixels.

    Burda et al. 2016, equation 8: a lower bound in expectation, which tightens with the number of samples. Of images
    that are not black and white it is that of their pixels taken as probabilities. The noise is the same at every call.
    """
    device = next(model.parameters()).device
    found = []
    with evaluating(model), unchecked_range(), torch.random.fork_rng():
        for i, batch in enumerate(images.to(device).in_order(batch_size)):
            reseed(device, "log-likelihood", i)
            code = model.encode(batch.images)
            counts = [min(at_once, samples - done) for done in range(0, samples, at_once)]
            weights = torch.cat([log_weights(model, batch.images, code, count) for count in counts])
            found.append((weights.double().logsumexp(0) - math.log(samples)).cpu())
    return torch.cat(found)
