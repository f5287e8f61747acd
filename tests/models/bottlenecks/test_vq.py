"""Vector quantisation."""

import itertools
import math

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from ae import (
    VectorQuantizer,
)
from ae.models.bottlenecks import vq
from tests.models.bottlenecks import SHAPE


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
        torch.testing.assert_close(code.aux["commitment"].mean(), penalty.squeeze(), rtol=1e-4, atol=1e-5)
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
    code.aux["commitment"].sum().backward()
    torch.testing.assert_close(features.grad, 0.5 * 2 * (features - code.z).detach() / math.prod(SHAPE))


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
