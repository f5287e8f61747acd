"""The contract that every bottleneck keeps, and what is particular to each. A new bottleneck is one line in CASES."""

import pytest
import torch
from torch import nn

from ae import Dense, Identity, InputError

SHAPE = (6, 3, 4)
CASES = {
    "identity": (Identity(), SHAPE),
    "dense": (Dense(SHAPE, 5), (5,)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    return CASES[request.param]


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_code_has_the_declared_shapes(case: tuple[nn.Module, tuple[int, ...]], batch: int) -> None:
    bottleneck, code_shape = case
    code = bottleneck(torch.rand(batch, *SHAPE))
    assert code.z.shape == code.mean.shape == (batch, *code_shape)
    assert code.rate.shape == code.penalty.shape == (batch,)
    assert bottleneck.expand(code.z).shape == (batch, *SHAPE)  # type: ignore[operator]


def test_gradient_reaches_features_and_parameters(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features = torch.rand(7, *SHAPE, requires_grad=True)
    code = bottleneck(features)
    expanded = bottleneck.expand(code.z)  # type: ignore[operator]
    (expanded.sum() + code.rate.sum() + code.penalty.sum()).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bottleneck.parameters())


def test_deterministic_bottlenecks_have_no_rate_penalty_or_noise(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    code = bottleneck(torch.rand(7, *SHAPE))
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
