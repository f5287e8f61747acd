"""Samples, interpolations, traversals and log-likelihoods, on models with known answers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ae import (
    FSQ,
    IWAE,
    MMD,
    Autoencoder,
    Batch,
    Code,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    GaussianMixture,
    Identity,
    Images,
    InputError,
    SpatialGaussian,
    Sphere,
    TopK,
    VectorQuantizer,
)
from ae.evaluation.plots import grid_picture
from ae.evaluation.sampling import (
    Mixture,
    codes,
    interpolations,
    log_likelihoods,
    prior_values,
    samplers,
    samples,
    traversals,
)
from ae.models.likelihoods import BernoulliLikelihood
from ae.models.priors import StandardNormal, has_prior, prior_of
from ae.objectives.variational import mmd


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Gaussian((6, 3, 3), 5), likelihood=BernoulliLikelihood()
    )


def test_samples_decodes_codes_of_the_prior(model: Autoencoder) -> None:
    torch.manual_seed(3)
    images = samples(model, 7, (10, 12))
    torch.manual_seed(3)
    assert torch.equal(images, model.decode(torch.randn(7, 5), (10, 12)))
    plain = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5))
    with pytest.raises(InputError, match="Dense has no prior to sample from"):
        samples(plain, 7)


def test_interpolations_go_from_first_to_second(model: Autoencoder) -> None:
    first, second = torch.rand(2, 3, 1, 10, 12)
    steps = interpolations(model, first, second, 5)
    assert steps.shape == (3, 5, 1, 10, 12)
    start, end = model.encode(first).mean, model.encode(second).mean
    torch.testing.assert_close(steps[:, 0], model.decode(start, (10, 12)))
    torch.testing.assert_close(steps[:, 2], model.decode((start + end) / 2, (10, 12)))
    torch.testing.assert_close(steps[:, 4], model.decode(end, (10, 12)))


def test_traversals_change_one_latent(model: Autoencoder) -> None:
    image = torch.rand(1, 10, 12)
    grid = traversals(model, image, [1, 4], [-2.0, 0.0, 2.0])
    assert grid.shape == (2, 3, 1, 10, 12)
    z = model.encode(image[None]).mean.detach().clone()
    z[0, 4] = 2.0
    torch.testing.assert_close(grid[1, 2], model.decode(z, (10, 12))[0])
    with pytest.raises(InputError, match="needs latents of a vector"):
        traversals(model, image, [5], [0.0])
    rows = torch.tensor([[-1.0, 0.5], [2.0, 3.0]])
    grid = traversals(model, image, [1, 4], rows)
    z = model.encode(image[None]).mean.detach().clone()
    z[0, 1] = 0.5
    torch.testing.assert_close(grid[0, 1], model.decode(z, (10, 12))[0])


def test_prior_values_are_the_priors_mean_and_deviations() -> None:
    """A mixture of one component N(m, s^2): values m - s, m, m + 3 s of each latent."""
    mixture = GaussianMixture(2, components=1)
    mixture.means.data, mixture.log_std.data = torch.tensor([[5.0, -1.0]]), torch.tensor([[2.0, 0.1]]).log()
    values = prior_values(Gaussian((6, 3, 4), 2, mixture), [-1.0, 0.0, 3.0])
    expected = torch.tensor([[3.0, 5.0, 11.0], [-1.1, -1.0, -0.7]])
    torch.testing.assert_close(values, expected, atol=0.2, rtol=0)
    with pytest.raises(InputError, match="latents are of a vector"):
        prior_values(SpatialGaussian((6, 3, 4), 2), [0.0])
    with pytest.raises(InputError, match="Identity has no prior"):
        prior_values(Identity(), [0.0])


class Constant(nn.Module):
    """An encoder whose features are 0 for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 1, 1, 1)


class Prior(Gaussian):
    """A bottleneck whose posterior is the prior for every image."""

    def forward(self, features: Tensor) -> Code:
        code = super().forward(features)
        assert code.posterior is not None
        zeros = torch.zeros(len(features), 1)
        posterior = torch.distributions.Normal(zeros, torch.ones_like(zeros))
        return Code(z=torch.randn_like(zeros), mean=zeros, rate=code.rate * 0, posterior=posterior)

    def expand(self, z: Tensor) -> Tensor:
        return z[:, :, None, None]


class Sign(nn.Module):
    """A decoder of one pixel: white with probability 0.9 for z > 0, else 0.2."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, torch.tensor(0.9).logit(), torch.tensor(0.2).logit())


def test_log_likelihoods_equal_those_of_an_integrable_model() -> None:
    """p(white) = (0.9 + 0.2) / 2 for z ~ N(0, 1)."""
    model = Autoencoder(Constant(), Sign(), Prior((1, 1, 1), 1), likelihood=BernoulliLikelihood())
    pixels = torch.tensor([255, 0], dtype=torch.uint8).reshape(2, 1, 1, 1)
    images = Images(pixels, torch.zeros(2, dtype=torch.int64), ("a",))
    values = log_likelihoods(model, images, samples=20_000, at_once=3000)
    assert values.tolist() == pytest.approx([math.log(0.55), math.log(0.45)], abs=0.02)
    assert torch.equal(values, log_likelihoods(model, images, samples=20_000, at_once=3000))


def test_log_likelihoods_are_above_the_iwae_bound(model: Autoencoder, noise: Images) -> None:
    grey = Images(noise.pixels[:, :1], noise.labels, noise.classes)
    wide = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Gaussian((6, 3, 4), 5), likelihood=BernoulliLikelihood()
    )
    batch = grey.batch(slice(None))
    with torch.no_grad():
        bound = sum(-IWAE(5)(wide, batch, 0).total.item() for _ in range(50)) / 50
    assert log_likelihoods(wide, grey, 500).mean().item() > bound


def test_mixture_samples_match_the_fitted_codes() -> None:
    torch.manual_seed(0)
    corners = torch.tensor([[5.0, 0.0, 0.0], [-5.0, 2.0, 0.0]])
    codes = corners[torch.arange(400) % 2] + torch.randn(400, 3) * torch.tensor([0.1, 1.0, 2.0])
    drawn = Mixture(codes, 2).sample(4000)
    assert ((drawn[:, 0].abs() - 5).abs() < 0.6).all()
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0), codes.std(0), atol=0.3, rtol=0)
    with pytest.raises(InputError, match="components must be at most the 3 codes, got 5"):
        Mixture(codes[:3], 5)


def test_grid_picture_shows_every_image() -> None:
    picture = grid_picture(torch.rand(2, 3, 1, 28, 28), "title")
    assert picture.width > 3 * 64
    assert picture.height > 2 * 64


def test_samplers_are_prior_and_mixture(model: Autoencoder) -> None:
    noise = Images(torch.randint(256, (20, 1, 10, 12), dtype=torch.uint8), torch.zeros(20).long(), ("a",))
    latent = 5
    latents = codes(model, noise)
    assert latents.shape == (len(noise), latent)
    draws = samplers(model, noise, components=2)
    assert list(draws) == ["prior", "mixture"]
    assert all(draw(7).shape == (7, latent) for draw in draws.values())
    assert list(samplers(model, noise, components=0)) == ["prior"]
    dense = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5))
    assert list(samplers(dense, noise, components=0)) == []
    dense.bottleneck.prior = StandardNormal((5,))
    assert samples(dense, 5, (10, 12), batch_size=2).shape == (5, 1, 10, 12)
    assert list(samplers(dense, noise, components=0)) == ["prior"]


def recording_model(bottleneck: nn.Module) -> tuple[Autoencoder, list[Tensor]]:
    """Return a model of images 10x12, and a list of every code that it decodes."""
    decoded: list[Tensor] = []
    expand = bottleneck.expand

    def record(z: Tensor) -> Tensor:
        decoded.append(z)
        return expand(z)  # type: ignore[operator]

    bottleneck.expand = record  # type: ignore[assignment]
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck), decoded


@pytest.mark.parametrize(
    ("bottleneck", "latents", "is_code"),
    [
        (Sphere((6, 3, 3), 5), [0, 4], lambda z: (z.norm(dim=1) - 1).abs().max() < 1e-5),
        (TopK((6, 3, 3), 9, 2), [0, 8], lambda z: ((z != 0).sum(1) <= 2).all()),
        (VectorQuantizer(6, 8), None, None),
        (FSQ(6, (3, 4)), None, lambda z: ((2 * z).round() == 2 * z).all() and z.abs().max() <= 1),
    ],
)
def test_decoded_codes_are_codes_that_the_bottleneck_can_give(
    bottleneck: nn.Module, latents: list[int] | None, is_code: Callable[[Tensor], bool] | None
) -> None:
    torch.manual_seed(0)
    model, decoded = recording_model(bottleneck)
    if latents is not None and not has_prior(bottleneck):
        bottleneck.prior = StandardNormal((bottleneck.latent,))  # type: ignore[arg-type]
    shape = model.encode(torch.rand(7, 1, 10, 12)).mean.shape[1:]
    samples(model, 7, (10, 12), lambda count: 2 * torch.randn(count, *shape))
    interpolations(model, torch.rand(3, 1, 10, 12), torch.rand(3, 1, 10, 12), 5)
    if latents is not None:
        noise = Images(torch.randint(256, (40, 1, 10, 12), dtype=torch.uint8), torch.zeros(40).long(), ("a",))
        for name, draw in samplers(model, noise, components=2).items():
            assert name == "prior" or is_code is None or is_code(draw(50))
        traversals(model, torch.rand(1, 10, 12), latents, [-3.0, 0.0, 0.5, 3.0])
    if isinstance(bottleneck, VectorQuantizer):
        vectors = torch.cat([z.movedim(1, -1).reshape(-1, 6) for z in decoded])
        assert (vectors[:, None] == bottleneck.codebook).all(2).any(1).all()
    else:
        assert is_code is not None
        assert all(is_code(z) for z in decoded)


def test_prior_of_a_sphere_is_uniform_on_it() -> None:
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Sphere((6, 3, 3), 5))
    torch.testing.assert_close(prior_of(model.bottleneck).sample(50).norm(dim=1), torch.ones(50))
    assert list(samplers(model, Images(torch.zeros(2, 1, 10, 12).byte(), torch.zeros(2).long(), ("a",)))) == ["prior"]


def test_mmd_of_a_sphere_is_to_its_prior() -> None:
    """Codes that are uniform on the sphere have no distance to its prior, and a large distance to N(0, I)."""

    class Uniform(Sphere):
        def forward(self, features: Tensor) -> Code:
            return Code.deterministic(prior_of(self).sample(len(features)))

    torch.manual_seed(0)
    batch = Batch(torch.rand(1000, 1, 10, 12), torch.full((1000,), -1))
    bottleneck = Uniform((2, 5, 6), 8)
    model = Autoencoder(ConvEncoder(1, (2,)), DeconvDecoder(1, (2,)), bottleneck)
    assert abs(MMD()(model, batch, 0).terms["mmd"].item()) < 0.003
    assert mmd(prior_of(bottleneck).sample(1000), torch.randn(1000, 8)).item() > 0.03


@pytest.mark.usefixtures("unhooked")
def test_mixture_refuses_codes_that_are_no_vectors() -> None:
    with pytest.raises(InputError, match=r"a mixture is fitted to codes \[n d\] that are vectors, got \[20, 6, 3, 3\]"):
        Mixture(torch.rand(20, 6, 3, 3))
