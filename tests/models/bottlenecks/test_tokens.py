"""Quantizers of tokens equal those of maps."""

import copy

import pytest
import torch
from einops import rearrange
from torch import nn

from ae import FSQ, InputError, VectorQuantizer

QUANTIZERS = {"vq": lambda: VectorQuantizer(4, codebook_size=7), "fsq": lambda: FSQ(4, (5, 3, 4))}


@pytest.fixture(params=QUANTIZERS)
def quantizer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return QUANTIZERS[request.param]()


def test_tokens_are_quantized_as_the_positions_of_a_map(quantizer: nn.Module) -> None:
    maps = torch.randn(3, 4, 2, 5)
    tokens = rearrange(maps, "b c h w -> b (h w) c")
    other = copy.deepcopy(quantizer)
    for _ in range(2):
        torch.manual_seed(1)
        of_maps = quantizer(maps)
        torch.manual_seed(1)
        of_tokens = other(tokens)
    torch.testing.assert_close(of_tokens.z, rearrange(of_maps.z, "b c h w -> b (h w) c"))
    assert torch.equal(of_tokens.indices, rearrange(of_maps.indices, "b h w -> b (h w)"))
    assert of_tokens.aux.keys() == of_maps.aux.keys()
    for name, value in of_maps.aux.items():
        torch.testing.assert_close(of_tokens.aux[name], value)
    assert of_tokens.stats == of_maps.stats


def test_methods_of_quantizers_take_tokens(quantizer: nn.Module) -> None:
    code = quantizer.eval()(torch.randn(3, 6, 4))
    assert code.z.shape[:2] == code.indices.shape == (3, 6)
    torch.testing.assert_close(quantizer.lookup(code.indices), code.z)  # type: ignore[operator]
    assert torch.equal(quantizer.indices(code.z), code.indices)  # type: ignore[operator]
    torch.testing.assert_close(quantizer.project(code.z), code.z)  # type: ignore[operator]
    assert quantizer.expand(code.z).shape == (3, 6, 4)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"features must be \[b 4 h w\] or \[b n 4\]"):
        quantizer(torch.randn(3, 6, 5))
