"""Sparse bottleneck."""

import pytest
import torch

from ae import (
    InputError,
    TopK,
)
from tests.models.bottlenecks import SHAPE


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
