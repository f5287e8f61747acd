"""The contract that every bottleneck keeps, and what is particular to each. A new bottleneck is one line in CASES."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
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
    VectorQuantized,
    load,
)
from ae.weights import save_weights
from tests.resumed import check_resume

SHAPE = (6, 3, 4)
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "identity": (Identity(), SHAPE),
    "dense": (Dense(SHAPE, 5), (5,)),
    "sphere": (Sphere(SHAPE, 5), (5,)),
    "top-k": (TopK(SHAPE, 9, 2), (9,)),
    "gaussian": (Gaussian(SHAPE, 5), (5,)),
    "vector-quantized": (VectorQuantized(6, codes=8), SHAPE),
    "fsq": (FSQ(6, (3, 4)), (2, 3, 4)),
}
PLAIN = ("identity", "dense", "sphere", "top-k", "fsq")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    bottleneck, code_shape = CASES[request.param]
    return copy.deepcopy(bottleneck), code_shape


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("training", [True, False])
def test_code_has_the_declared_shapes(case: tuple[nn.Module, tuple[int, ...]], batch: int, training: bool) -> None:
    bottleneck, code_shape = case
    code = bottleneck.train(training)(torch.rand(batch, *SHAPE))
    assert code.z.shape == code.mean.shape == (batch, *code_shape)
    assert code.rate.shape == code.penalty.shape == (batch,)
    assert bottleneck.expand(code.z).shape == (batch, *SHAPE)  # type: ignore[operator]
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in code.stats.values())


def test_gradient_reaches_features_and_parameters(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features = torch.rand(7, *SHAPE, requires_grad=True)
    code = bottleneck(features)
    expanded = bottleneck.expand(code.z)  # type: ignore[operator]
    (expanded.square().sum() + code.rate.sum() + code.penalty.sum()).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bottleneck.parameters())


def test_an_evaluation_changes_nothing(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    bottleneck(torch.rand(7, *SHAPE))
    before = copy.deepcopy(bottleneck.state_dict())
    bottleneck.eval()(torch.rand(7, *SHAPE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in bottleneck.state_dict().items())


def test_the_same_seed_gives_the_same_code_and_the_mean_has_no_noise(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features, codes = torch.rand(7, *SHAPE), []
    bottleneck(features)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        codes.append(bottleneck.eval()(features))
    assert torch.equal(codes[0].z, codes[1].z)
    assert torch.equal(codes[0].mean, codes[2].mean)


def test_it_is_saved_and_loaded(case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path) -> None:
    bottleneck, code_shape = case
    bottleneck(torch.rand(7, *SHAPE))
    model = Autoencoder(nn.Identity(), None, bottleneck, {"a": Classifier(code_shape, 3, 4)})
    save_weights(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors", encoder=nn.Identity())
    features = torch.rand(4, *SHAPE)
    assert torch.equal(loaded.eval().encode(features).mean, model.eval().encode(features).mean)


def test_a_resumed_training_ends_as_one_that_was_not_interrupted(
    case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(256, (60, 1, 12, 16), dtype=torch.uint8)
    data = Splits(Images(pixels, torch.zeros(60).long(), ("a",)), Images(pixels[:20], torch.zeros(20).long(), ("a",)))
    joint = Joint("bernoulli", reconstruction=1.0, rate=1.0, classification=0.0)

    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(1)
        bottleneck = copy.deepcopy(case[0]).train()
        for part in bottleneck.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.reset_parameters()
        return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck), joint

    check_resume(make, data, tmp_path)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_bottlenecks_have_no_rate_penalty_or_noise(name: str) -> None:
    code = CASES[name][0](torch.rand(7, *SHAPE))
    assert code.z is code.mean
    assert not code.rate.any()
    assert not code.penalty.any()
    assert code.posterior is None


def test_identity_is_the_identity() -> None:
    features = torch.randn(3, *SHAPE)
    assert torch.equal(Identity()(features).z, features)
    assert torch.equal(Identity().expand(features), features)


def test_dense_is_two_linear_maps() -> None:
    dense = Dense(SHAPE, 5)
    features = torch.rand(3, *SHAPE)
    z = features.reshape(3, -1) @ dense.reduce.weight.T + dense.reduce.bias
    torch.testing.assert_close(dense(features).z, z)
    back = (z @ dense.restore.weight.T + dense.restore.bias).clamp(min=0).reshape(3, *SHAPE)
    torch.testing.assert_close(dense.expand(z), back)


@pytest.mark.usefixtures("unhooked")
def test_dense_refuses_other_shapes_and_sizes() -> None:
    dense = Dense(SHAPE, 5)
    with pytest.raises(InputError, match=r"features must be \[b 6 3 4\], got \[2, 6, 4, 3\]"):
        dense(torch.rand(2, 6, 4, 3))
    with pytest.raises(InputError, match=r"z must be \[b 5\], got \[2, 6\]"):
        dense.expand(torch.rand(2, 6))
    with pytest.raises(InputError, match="latent must be positive, got 0"):
        Dense(SHAPE, 0)


def test_sphere_has_length_one() -> None:
    sphere, features = Sphere(SHAPE, 5), torch.randn(4, *SHAPE)
    torch.testing.assert_close(sphere(features).z.norm(dim=1), torch.ones(4))
    z = features.flatten(1) @ sphere.reduce.weight.T + sphere.reduce.bias
    torch.testing.assert_close(sphere(features).z, z / z.square().sum(1, keepdim=True).sqrt())


def test_top_k_keeps_the_largest() -> None:
    top, features = TopK(SHAPE, 9, 2), torch.randn(40, *SHAPE)
    dense = top.reduce(features.flatten(1))
    dense = (dense - dense.mean(0)) / dense.std(0, correction=0)
    for kept, all_of_them in zip(top(features).z, dense, strict=True):
        largest = sorted(all_of_them.tolist(), key=abs)[-2:]
        assert sorted(kept[kept != 0].tolist()) == pytest.approx(sorted(largest), rel=1e-3)
    with pytest.raises(InputError, match="k must be at most the 9 latents, got 10"):
        TopK(SHAPE, 9, 10)


def test_top_k_leaves_no_latent_out() -> None:
    """A latent that is of a twentieth of the others' size is chosen as often."""
    top, features = TopK(SHAPE, 10, 2), torch.randn(400, *SHAPE)
    with torch.no_grad():
        top.reduce.weight[3] *= 0.05
        top.reduce.bias[5] = 10.0
    chosen = (top(features).z != 0).float().mean(0)
    assert chosen.min() > 0.1
    assert chosen.max() < 0.3
    for _ in range(200):
        top(features)
    evaluated = (top.eval()(features).z != 0).float().mean(0)
    torch.testing.assert_close(evaluated, chosen, atol=0.02, rtol=0)


def test_gaussians_rate_is_the_divergence_from_the_prior() -> None:
    """Against the closed form (Kingma & Welling 2014, appendix B), and against an average over samples."""
    gaussian, features = Gaussian(SHAPE, 5), torch.randn(3, *SHAPE)
    mean, log_variance = (features.flatten(1) @ gaussian.reduce.weight.T + gaussian.reduce.bias).chunk(2, 1)
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


def test_gaussian_draws_from_its_posterior_in_evaluation_too() -> None:
    gaussian, features = Gaussian(SHAPE, 5).eval(), torch.randn(1, *SHAPE)
    torch.manual_seed(0)
    code = gaussian(features.expand(20_000, *SHAPE))
    torch.testing.assert_close(code.z.mean(0), code.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(code.z.std(0), code.posterior.stddev[0], atol=0.05, rtol=0)
    assert gaussian.sample(7).shape == (7, 5)


def test_extreme_features_give_finite_gaussians() -> None:
    gaussian = Gaussian(SHAPE, 5)
    code = gaussian(torch.full((2, *SHAPE), 1e4))
    assert code.z.isfinite().all()
    assert code.rate.isfinite().all()


def trained_quantizer(**options: float) -> VectorQuantized:
    """Twice as many codes as there are corners, so that none of these has to share one."""
    torch.manual_seed(0)
    quantizer = VectorQuantized(6, codes=16, **options)
    for _ in range(60):
        quantizer(corners(16))
    return quantizer


def corners(images: int) -> Tensor:
    """Features [images 6 3 4] near 8 corners of a cube, and 0 in three channels."""
    points = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    chosen = points[torch.randint(8, (images, 3, 4))].permute(0, 3, 1, 2)
    return torch.cat([chosen + 0.05 * torch.randn_like(chosen), torch.zeros_like(chosen)], dim=1)


def test_quantizer_takes_the_nearest_code_and_finds_the_clusters() -> None:
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


def test_quantizer_equals_the_library() -> None:
    """vector-quantize-pytorch, which has its own moving averages; without its restarts and its smoothing."""
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
    quantizer = VectorQuantized(6, codes=8, decay=0.8, revive=0.0)
    torch.manual_seed(0)
    codebook = torch.randn(8, 6)
    library._codebook.embed.copy_(codebook[None])
    library._codebook.embed_avg.copy_(codebook[None])
    library._codebook.cluster_size.fill_(1)
    places = 50 * 12
    quantizer.codebook.copy_(codebook)
    quantizer.share.fill_(1 / places)
    quantizer.total.copy_(codebook / places)
    quantizer.begun.fill_(True)
    for _ in range(5):
        features = torch.randn(50, *SHAPE)
        z, _, penalty = library(features)
        code = quantizer(features)
        torch.testing.assert_close(code.penalty.mean(), penalty.squeeze(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(code.z, z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quantizer.codebook, library._codebook.embed[0], rtol=1e-3, atol=1e-4)


def test_codes_out_of_use_begin_again() -> None:
    quantizer = trained_quantizer()
    quantizer.codebook[3] = 1000.0
    quantizer.total[3] = 1000.0 / 16
    for _ in range(600):
        quantizer(corners(4))
    assert quantizer.codebook.abs().max() < 2
    without = trained_quantizer(revive=0.0)
    without.codebook[3] = without.total[3] = 1000.0
    for _ in range(600):
        without(corners(4))
    assert without.codebook.abs().max() == pytest.approx(1000.0 * 16, rel=0.5)


def test_straight_through_gradients() -> None:
    quantizer = trained_quantizer(commitment=0.5).eval()
    features, weights = corners(2).requires_grad_(), torch.randn(2, *SHAPE)
    code = quantizer(features)
    (code.z * weights).sum().backward(retain_graph=True)
    torch.testing.assert_close(features.grad, weights)
    features.grad = None
    code.penalty.sum().backward()
    torch.testing.assert_close(features.grad, 0.5 * 2 * (features - code.z).detach() / math.prod(SHAPE))


def test_fsq_has_all_of_its_codes_and_no_others() -> None:
    fsq = FSQ(6, (3, 4))
    nn.init.normal_(fsq.reduce.weight, std=5.0)
    z = fsq(torch.randn(200, *SHAPE)).z
    index = fsq.indices(z)
    assert sorted(index.unique().tolist()) == list(range(12))
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 2)
    assert len(vectors.unique(dim=0)) == 12
    assert vectors.abs().max() <= 1
    for i in range(12):
        assert len(vectors[index.flatten() == i].unique(dim=0)) == 1


def test_fsq_equals_the_library() -> None:
    import vector_quantize_pytorch

    levels = [8, 5, 5, 5]
    ours, library = FSQ(4, levels), vector_quantize_pytorch.FSQ(levels)
    nn.init.dirac_(ours.reduce.weight)
    nn.init.zeros_(ours.reduce.bias)  # type: ignore[arg-type]
    features = 2 * torch.randn(6, 4, 3, 4)
    z, index = library(features)
    torch.testing.assert_close(ours(features).z, z)
    assert torch.equal(ours.indices(ours(features).z), index.long())


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: VectorQuantized(6, decay=1.0), "decay and revive must be from 0 to less than 1"),
        (lambda: FSQ(6, (1, 4)), "levels must be 2 or more each"),
        (lambda: VectorQuantized(6)(torch.rand(2, 5, 3, 4)), r"features must be \[b 6 h w\], got \[2, 5, 3, 4\]"),
        (lambda: FSQ(6)(torch.rand(2, 5, 3, 4)), r"features must be \[b 6 h w\], got \[2, 5, 3, 4\]"),
        (lambda: Gaussian(SHAPE, 0), "latent must be positive, got 0"),
    ],
)
def test_bad_input_is_named(make: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()  # type: ignore[operator]
