"""Finite scalar quantisation."""

import math

import pytest
import torch
from torch import nn

from ae import (
    FSQ,
    InputError,
)
from tests.models.bottlenecks import SHAPE


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
