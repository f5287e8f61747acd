"""Bottlenecks without noise: the features themselves, and a linear map of them."""

import pytest
import torch

from ae import (
    Dense,
    Identity,
    InputError,
)
from tests.models.bottlenecks import SHAPE


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
