"""The contract of all bottlenecks, and the properties of each. A new bottleneck is a line in CASES."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ae import (
    FSQ,
    Autoencoder,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    Identity,
    Images,
    InputError,
    Joint,
    Sphere,
    Splits,
    TopK,
    VectorQuantizer,
    load,
)
from ae.models.bottlenecks import SpatialGaussian, vq
from ae.models.likelihoods import BernoulliLikelihood
from ae.models.priors import GaussianMixture, prior_of
from ae.weights import save_weights
from tests.helpers.resumed import check_resume

SHAPE = (6, 3, 4)
torch.manual_seed(0)  # of the weights of CASES
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "identity": (Identity(), SHAPE),
    "dense": (Dense(SHAPE, 5), (5,)),
    "sphere": (Sphere(SHAPE, 5), (5,)),
    "top-k": (TopK(SHAPE, 9, 2), (9,)),
    "gaussian": (Gaussian(SHAPE, 5), (5,)),
    "gaussian-mixture-prior": (Gaussian(SHAPE, 5, GaussianMixture(5, 3)), (5,)),
    "spatial-gaussian": (SpatialGaussian(SHAPE, 2), (2, 3, 4)),
    "vector-quantizer": (VectorQuantizer(6, codebook_size=8), SHAPE),
    "fsq": (FSQ(6, (3, 4)), (2, 3, 4)),
}
PLAIN = ("identity", "dense", "sphere", "top-k", "fsq")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    bottleneck, code_shape = CASES[request.param]
    return copy.deepcopy(bottleneck), code_shape


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("training", [True, False])
def test_bottleneck_code_shapes(case: tuple[nn.Module, tuple[int, ...]], batch: int, training: bool) -> None:
    bottleneck, code_shape = case
    code = bottleneck.train(training)(torch.rand(batch, *SHAPE))
    assert code.z.shape == code.mean.shape == (batch, *code_shape)
    assert code.rate.shape == code.penalty.shape == (batch,)
    assert bottleneck.expand(code.z).shape == (batch, *SHAPE)  # type: ignore[operator]
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in code.stats.values())


def test_bottleneck_gradients_reach_features_and_parameters(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features = torch.rand(7, *SHAPE, requires_grad=True)
    code = bottleneck(features)
    expanded = bottleneck.expand(code.z)  # type: ignore[operator]
    (expanded.square().sum() + code.rate.sum() + code.penalty.sum()).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bottleneck.parameters())


def test_bottleneck_evaluation_keeps_state(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    bottleneck(torch.rand(7, *SHAPE))
    before = copy.deepcopy(bottleneck.state_dict())
    bottleneck.eval()(torch.rand(7, *SHAPE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in bottleneck.state_dict().items())


def test_bottleneck_code_is_seeded_and_mean_is_deterministic(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features, codes = torch.rand(7, *SHAPE), []
    bottleneck(features)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        codes.append(bottleneck.eval()(features))
    assert torch.equal(codes[0].z, codes[1].z)
    assert torch.equal(codes[0].mean, codes[2].mean)


def test_bottleneck_save_and_load(case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path) -> None:
    bottleneck, code_shape = case
    bottleneck(torch.rand(7, *SHAPE))
    model = Autoencoder(nn.Identity(), None, bottleneck, {"a": Classifier(code_shape, 3, 4)})
    save_weights(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors", encoder=nn.Identity())
    model.to(memory_format=torch.channels_last)  # as loaded
    features = torch.rand(4, *SHAPE)
    assert torch.equal(loaded.eval().encode(features).mean, model.eval().encode(features).mean)


def test_bottleneck_resume_equals_uninterrupted_training(
    case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(256, (60, 1, 12, 16), dtype=torch.uint8)
    data = Splits(Images(pixels, torch.zeros(60).long(), ("a",)), Images(pixels[:20], torch.zeros(20).long(), ("a",)))
    joint = Joint(reconstruction=1.0, beta=1.0, classification=0.0)

    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(1)
        bottleneck = copy.deepcopy(case[0]).train()
        for part in bottleneck.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.reset_parameters()
        model = Autoencoder(
            ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, likelihood=BernoulliLikelihood()
        )
        return model, joint

    check_resume(make, data, tmp_path)


@pytest.mark.parametrize("name", PLAIN)
def test_deterministic_bottlenecks_have_no_rate_penalty_or_noise(name: str) -> None:
    code = CASES[name][0](torch.rand(7, *SHAPE))
    assert code.z is code.mean
    assert not code.rate.any()
    assert not code.penalty.any()
    assert code.posterior is None


def test_identity_returns_features() -> None:
    features = torch.randn(3, *SHAPE)
    assert torch.equal(Identity()(features).z, features)
    assert torch.equal(Identity().expand(features), features)


def test_dense_is_two_linear_maps() -> None:
    dense = Dense(SHAPE, 5)
    features = torch.rand(3, *SHAPE)
    z = features.reshape(3, -1) @ dense.project_in.weight.T + dense.project_in.bias
    torch.testing.assert_close(dense(features).z, z)
    back = (z @ dense.project_out.weight.T + dense.project_out.bias).clamp(min=0).reshape(3, *SHAPE)
    torch.testing.assert_close(dense.expand(z), back)


@pytest.mark.usefixtures("unhooked")
def test_dense_rejects_wrong_shapes() -> None:
    dense = Dense(SHAPE, 5)
    with pytest.raises(InputError, match=r"features must be \[b 6 3 4\], got \[2, 6, 4, 3\]"):
        dense(torch.rand(2, 6, 4, 3))
    with pytest.raises(InputError, match=r"z must be \[b 5\], got \[2, 6\]"):
        dense.expand(torch.rand(2, 6))
    with pytest.raises(InputError, match="latent must be positive, got 0"):
        Dense(SHAPE, 0)


def test_sphere_has_unit_norm() -> None:
    sphere, features = Sphere(SHAPE, 5), torch.randn(4, *SHAPE)
    torch.testing.assert_close(sphere(features).z.norm(dim=1), torch.ones(4))
    z = features.flatten(1) @ sphere.project_in.weight.T + sphere.project_in.bias
    torch.testing.assert_close(sphere(features).z, z / z.square().sum(1, keepdim=True).sqrt())


def test_top_k_keeps_largest_magnitudes() -> None:
    top, features = TopK(SHAPE, 9, 2), torch.randn(40, *SHAPE)
    dense = top.project_in(features.flatten(1))
    dense = (dense - dense.mean(0)) / dense.std(0, correction=0)
    for kept, values in zip(top(features).z, dense, strict=True):
        largest = sorted(values.tolist(), key=abs)[-2:]
        assert sorted(kept[kept != 0].tolist()) == pytest.approx(sorted(largest), rel=1e-3)
    with pytest.raises(InputError, match="k must be at most the 9 latents, got 10"):
        TopK(SHAPE, 9, 10)


def test_top_k_normalises_latents() -> None:
    """A latent of a twentieth of the scale is selected as often as the rest."""
    top, features = TopK(SHAPE, 10, 2), torch.randn(400, *SHAPE)
    with torch.no_grad():
        top.project_in.weight[3] *= 0.05
        top.project_in.bias[5] = 10.0
    chosen = (top(features).z != 0).float().mean(0)
    assert chosen.min() > 0.1
    assert chosen.max() < 0.3
    for _ in range(200):
        top(features)
    evaluated = (top.eval()(features).z != 0).float().mean(0)
    torch.testing.assert_close(evaluated, chosen, atol=0.02, rtol=0)


def test_gaussian_rate_is_kl_to_prior() -> None:
    """Compare with the closed form (Kingma & Welling 2014, appendix B) and a Monte Carlo estimate."""
    gaussian, features = Gaussian(SHAPE, 5), torch.randn(3, *SHAPE)
    mean, log_variance = (features.flatten(1) @ gaussian.project_in.weight.T + gaussian.project_in.bias).chunk(2, 1)
    code = gaussian(features)
    expected = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    torch.testing.assert_close(code.rate, expected)
    torch.testing.assert_close(code.mean, mean)
    torch.manual_seed(0)
    z = mean + (0.5 * log_variance).exp() * torch.randn(200_000, 3, 5)
    sampled = Normal(mean, (0.5 * log_variance).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(sampled.sum(2).mean(0), expected, rtol=0.02, atol=0.02)
    assert code.posterior is not None
    torch.testing.assert_close(kl_divergence(code.posterior, Normal(torch.zeros(3, 5), 1.0)).sum(1), expected)


def test_gaussian_samples_in_evaluation() -> None:
    gaussian, features = Gaussian(SHAPE, 5).eval(), torch.randn(1, *SHAPE)
    torch.manual_seed(0)
    code = gaussian(features.expand(20_000, *SHAPE))
    torch.testing.assert_close(code.z.mean(0), code.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(code.z.std(0), code.posterior.stddev[0], atol=0.05, rtol=0)
    assert prior_of(gaussian).sample(7).shape == (7, 5)


def test_gaussian_is_finite_for_extreme_features() -> None:
    gaussian = Gaussian(SHAPE, 5)
    code = gaussian(torch.full((2, *SHAPE), 1e4))
    assert code.z.isfinite().all()
    assert code.rate.isfinite().all()


def trained_quantizer(**options: float) -> VectorQuantizer:
    """A quantizer with twice as many codes as corners, so that each corner has a code."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(6, codebook_size=16, **options)
    for _ in range(60):
        quantizer(corners(16))
    return quantizer


def corners(images: int) -> Tensor:
    """Features [images 6 3 4] near 8 corners of a cube, and 0 in three channels."""
    points = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    chosen = points[torch.randint(8, (images, 3, 4))].permute(0, 3, 1, 2)
    return torch.cat([chosen + 0.05 * torch.randn_like(chosen), torch.zeros_like(chosen)], dim=1)


def test_quantizer_takes_nearest_code_and_finds_clusters() -> None:
    quantizer = trained_quantizer().eval()
    features = corners(5)
    code = quantizer(features)
    for image, index, z in zip(features, quantizer.indices(features), code.z, strict=True):
        for r, c in itertools.product(range(3), range(4)):
            distances = [(image[:, r, c] - vector).square().sum().item() for vector in quantizer.codebook]
            assert index[r, c] == distances.index(min(distances))
            torch.testing.assert_close(z[:, r, c], quantizer.codebook[index[r, c]])
    torch.testing.assert_close(quantizer.lookup(quantizer.indices(features)), code.z)
    assert code.stats["codes_used"] > 0.7
    assert 7 < code.stats["perplexity"] <= 16
    points = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    assert torch.cdist(points, quantizer.codebook[:, :3]).amin(1).max() < 0.15


def test_quantizer_equals_vector_quantize_pytorch() -> None:
    """Compare with vector-quantize-pytorch, without its dead-code replacement and smoothing."""
    from vector_quantize_pytorch import VectorQuantize

    library = VectorQuantize(
        dim=6,
        codebook_size=8,
        decay=0.8,
        commitment_weight=0.25,
        threshold_ema_dead_code=0,
        accept_image_fmap=True,
        eps=0,
    )
    quantizer = VectorQuantizer(6, codebook_size=8, decay=0.8, dead_code_threshold=0.0)
    torch.manual_seed(0)
    codebook = torch.randn(8, 6)
    library._codebook.embed.copy_(codebook[None])
    library._codebook.embed_avg.copy_(codebook[None])
    library._codebook.cluster_size.fill_(1)
    places = 50 * 12
    quantizer.codebook.copy_(codebook)
    quantizer.ema_cluster_size.fill_(1 / places)
    quantizer.ema_embed_sum.copy_(codebook / places)
    quantizer.initialized.fill_(True)
    for _ in range(5):
        features = torch.randn(50, *SHAPE)
        z, _, penalty = library(features)
        code = quantizer(features)
        torch.testing.assert_close(code.penalty.mean(), penalty.squeeze(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(code.z, z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quantizer.codebook, library._codebook.embed[0], rtol=1e-3, atol=1e-4)


def test_quantizer_reinitialises_dead_codes() -> None:
    quantizer = trained_quantizer()
    quantizer.codebook[3] = 1000.0
    quantizer.ema_embed_sum[3] = 1000.0 / 16
    for _ in range(600):
        quantizer(corners(4))
    assert quantizer.codebook.abs().max() < 2
    without = trained_quantizer(dead_code_threshold=0.0)
    without.codebook[3] = without.ema_embed_sum[3] = 1000.0
    for _ in range(600):
        without(corners(4))
    assert without.codebook.abs().max() == pytest.approx(1000.0 * 16, rel=0.5)


def test_quantizer_gradients_are_straight_through() -> None:
    quantizer = trained_quantizer(commitment=0.5).eval()
    features, weights = corners(2).requires_grad_(), torch.randn(2, *SHAPE)
    code = quantizer(features)
    (code.z * weights).sum().backward(retain_graph=True)
    torch.testing.assert_close(features.grad, weights)
    features.grad = None
    code.penalty.sum().backward()
    torch.testing.assert_close(features.grad, 0.5 * 2 * (features - code.z).detach() / math.prod(SHAPE))


def test_fsq_reaches_exactly_its_codes() -> None:
    torch.manual_seed(0)
    fsq = FSQ(6, (3, 4))
    nn.init.normal_(fsq.project_in.weight, std=5.0)
    z = fsq(torch.randn(200, *SHAPE)).z
    index = fsq.indices(z)
    assert sorted(index.unique().tolist()) == list(range(12))
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 2)
    assert len(vectors.unique(dim=0)) == 12
    assert vectors.abs().max() <= 1
    for i in range(12):
        assert len(vectors[index.flatten() == i].unique(dim=0)) == 1


def test_fsq_equals_vector_quantize_pytorch() -> None:
    import vector_quantize_pytorch

    levels = [8, 5, 5, 5]
    ours, library = FSQ(4, levels), vector_quantize_pytorch.FSQ(levels)
    nn.init.dirac_(ours.project_in.weight)
    nn.init.zeros_(ours.project_in.bias)  # type: ignore[arg-type]
    features = 2 * torch.randn(6, 4, 3, 4)
    z, index = library(features)
    torch.testing.assert_close(ours(features).z, z)
    assert torch.equal(ours.indices(ours(features).z), index.long())


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: VectorQuantizer(6, decay=1.0), "decay must be from 0 to less than 1, got 1.0"),
        (lambda: FSQ(6, (1, 4)), "levels must be 2 or more, got 1"),
        (lambda: VectorQuantizer(6)(torch.rand(2, 5, 3, 4)), r"features must be \[b 6 h w\], got \[2, 5, 3, 4\]"),
        (lambda: FSQ(6)(torch.rand(2, 5, 3, 4)), r"features must be \[b 6 h w\], got \[2, 5, 3, 4\]"),
        (lambda: Gaussian(SHAPE, 0), "latent must be positive, got 0"),
    ],
)
def test_bottleneck_rejects_invalid_input(make: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("codes", [16_384, 200_000])
def test_quantizer_moving_averages_of_a_large_codebook_equal_a_reference(codes: int) -> None:
    """Compare with a Python loop in float64: no code shrinks, whatever its frequency."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, codes, dead_code_threshold=0.0)
    quantizer._initialize(5 + torch.randn(3000, 4))
    quantizer.codebook.copy_(5 + torch.randn(codes, 4))
    quantizer.ema_embed_sum.copy_(quantizer.codebook / codes)
    share, total = np.full(codes, 1 / codes), quantizer.codebook.double().numpy() / codes
    for _ in range(3):
        vectors = 5 + torch.randn(40, 4)
        index = quantizer.nearest(vectors)
        share, total = 0.99 * share, 0.99 * total
        for vector, i in zip(vectors.double().numpy(), index.tolist(), strict=True):
            share[i] += 0.01 / 40
            total[i] += 0.01 * vector / 40
        quantizer(rearrange(vectors, "(b h w) c -> b c h w", h=5, w=4))
        np.testing.assert_allclose(quantizer.codebook.numpy(), total / share[:, None], rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0, 1e5])
def test_quantizer_nearest_is_exact_far_from_origin(offset: float) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(64, codebook_size=128)
    quantizer.codebook.copy_(offset + 0.3 * torch.randn(128, 64))
    quantizer.codebook[64:] -= 2 * offset  # two distant groups: the mean is far from every code
    vectors = torch.cat([offset + 0.3 * torch.randn(200, 64), -offset + 0.3 * torch.randn(200, 64)])
    distances = (vectors.double()[:, None] - quantizer.codebook.double()).square().sum(2)
    chosen = distances.gather(1, quantizer.nearest(vectors)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-9, atol=1e-9)
    assert torch.equal(quantizer.nearest(vectors), distances.argmin(1)) or offset == 1e5  # at 1e5: ties


def test_quantizer_nearest_in_chunks_equals_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer, vectors = VectorQuantizer(6, codebook_size=16), torch.randn(50, 6)
    whole = quantizer.nearest(vectors)
    monkeypatch.setattr(vq, "_DISTANCES", 100)
    assert torch.equal(quantizer.nearest(vectors), whole)
    assert quantizer.nearest(vectors[:0]).shape == (0,)


def test_quantizer_indices_in_bfloat16_equal_float32() -> None:
    quantizer, features = trained_quantizer().eval(), corners(5)
    expected = quantizer.indices(features.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.indices(features.bfloat16()), expected)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_quantizer_initialises_all_clusters_at_any_scale(scale: float) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(6, codebook_size=8)
    quantizer._initialize(rearrange(scale * corners(16), "b c h w -> (b h w) c"))
    points = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    assert torch.cdist(points, quantizer.codebook[:, :3] / scale).amin(1).max() < 0.5


def test_quantizer_initialises_from_equal_vectors() -> None:
    quantizer = VectorQuantizer(6, codebook_size=8)
    quantizer._initialize(torch.ones(20, 6))
    assert torch.equal(quantizer.codebook, torch.ones(8, 6))


@pytest.mark.parametrize("levels", [(2,), (2, 2), (4, 2), (8, 6, 5), (2001,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fsq_reaches_every_level_with_a_gradient(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    fsq = FSQ(len(levels), levels)
    nn.init.dirac_(fsq.project_in.weight)
    nn.init.zeros_(fsq.project_in.bias)  # type: ignore[arg-type]
    numbers = torch.linspace(-12, 12, 40_000).expand(1, len(levels), 1, -1).clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        z = fsq(numbers).z
    digits = (z * (torch.tensor(levels) // 2)[:, None, None]).round().long()
    for i, count in enumerate(levels):
        expected = range(-(count // 2), (count + 1) // 2)
        found = digits[0, i].unique().tolist()
        assert found == list(expected) if count < 100 else min(found) >= expected[0] and max(found) <= expected[-1]
    assert fsq.indices(z).max() < math.prod(levels)
    z.sum().backward()
    assert numbers.grad is not None
    assert (numbers.grad[..., 19_500:20_500] > 0.1).all()  # the tanh is steep near 0
    torch.testing.assert_close(fsq.project(z.detach() + 1e-5), z.detach())


def test_fsq_rejects_too_many_codes() -> None:
    with pytest.raises(InputError, match=r"levels must make at most 16,777,216 codes, got 68,719,476,736"):
        FSQ(6, (8,) * 12)


def points_on_the_sphere(count: int, latent: int) -> Tensor:
    return nn.functional.normalize(torch.randn(count, latent, dtype=torch.float64), dim=1).float()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_sphere_mix_follows_great_circles(fraction: float) -> None:
    """Compare with Shoemake's formula in float64."""
    start, end = points_on_the_sphere(2 * 50, 5).chunk(2)
    angle = (start.double() * end.double()).sum(1, keepdim=True).acos()
    expected = (((1 - fraction) * angle).sin() * start + (fraction * angle).sin() * end) / angle.sin()
    torch.testing.assert_close(Sphere(SHAPE, 5).mix(start, end, fraction), expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("nudge", [0.0, 1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_sphere_mix_of_equal_and_opposite_points(latent: int, nudge: float, sign: int) -> None:
    sphere = Sphere(SHAPE, latent)
    start = torch.cat([points_on_the_sphere(20, latent), torch.eye(latent)])
    end = sphere.project(sign * start + nudge * torch.randn_like(start))
    mixed = [sphere.mix(start, end, i / 8) for i in range(9)]
    for z in mixed:
        torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    torch.testing.assert_close(mixed[0], start, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[8], end, atol=1e-5, rtol=0)
    if latent > 1:  # the 0-sphere has two points and no path between them
        steps = torch.stack([(b - a).norm(dim=1) for a, b in itertools.pairwise(mixed)])
        torch.testing.assert_close(steps, steps.mean(0).expand_as(steps), atol=1e-5, rtol=1e-3)


def test_sphere_samples_are_uniform() -> None:
    torch.manual_seed(0)
    z = prior_of(Sphere(SHAPE, 3)).sample(20_000)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    heights = z[:, 2].sort().values  # uniform in [-1, 1] (Archimedes)
    torch.testing.assert_close(heights, torch.linspace(-1, 1, len(z)), atol=0.03, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_sphere_project_has_finite_gradient_at_any_norm(scale: float) -> None:
    z = (scale * torch.randn(7, 5)).requires_grad_()
    projected = Sphere(SHAPE, 5).project(z)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(7))
    projected.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["sphere", "top-k", "vector-quantizer", "fsq"])
def test_bottleneck_project_is_idempotent_and_valid(name: str) -> None:
    bottleneck = copy.deepcopy(CASES[name][0])
    bottleneck(torch.rand(7, *SHAPE))
    z = bottleneck.eval()(torch.rand(7, *SHAPE)).z.detach()
    torch.testing.assert_close(bottleneck.project(z), z)  # type: ignore[operator]
    projected = bottleneck.project(z + torch.randn_like(z))  # type: ignore[operator]
    torch.testing.assert_close(bottleneck.project(projected), projected)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["vector-quantizer", "fsq"])
def test_quantizer_lookup_inverts_indices(name: str) -> None:
    quantizer: Any = copy.deepcopy(CASES[name][0]).eval()
    code = quantizer(torch.randn(5, *SHAPE))
    assert code.indices is not None
    assert code.indices.shape == (5, *SHAPE[1:])
    torch.testing.assert_close(quantizer.lookup(code.indices), code.z)
    assert torch.equal(quantizer.indices(code.z), code.indices)
    every = torch.arange(quantizer.codebook_size)[:, None, None]
    assert torch.equal(quantizer.indices(quantizer.lookup(every)), every)


def test_gaussian_rate_of_a_prior_without_closed_form_is_a_monte_carlo_estimate_of_the_kl() -> None:
    """A mixture of one component N(0, I) is the standard normal, without its closed form."""
    torch.manual_seed(0)
    gaussian = Gaussian(SHAPE, 5)
    features = torch.randn(1, *SHAPE)
    expected = gaussian(features).rate.item()
    mixture = GaussianMixture(5, components=1)
    torch.nn.init.zeros_(mixture.means)
    gaussian.prior = mixture
    rates = gaussian(features.expand(40_000, *SHAPE)).rate
    error = rates.std().item() / 200
    assert abs(rates.mean().item() - expected) < 4 * error
    rates.mean().backward()
    assert mixture.means.grad is not None
    assert mixture.means.grad.abs().sum() > 0


def test_spatial_gaussian_equals_gaussian_at_each_position() -> None:
    torch.manual_seed(0)
    spatial = SpatialGaussian(SHAPE, 2)
    features = torch.randn(3, *SHAPE)
    code = spatial(features)
    flat = Gaussian((6,), 2)
    flat.project_in.weight.data = spatial.project_in.weight.data[:, :, 0, 0]
    flat.project_in.bias.data = spatial.project_in.bias.data  # type: ignore[union-attr]
    position = flat(rearrange(features, "b c h w -> (b h w) c"))
    torch.testing.assert_close(rearrange(code.mean, "b c h w -> (b h w) c"), position.mean)
    torch.testing.assert_close(code.rate, position.rate.reshape(3, -1).sum(1))
    assert prior_of(spatial).sample(4).shape == (4, 2, 3, 4)
    assert spatial.expand(code.z).shape == features.shape
