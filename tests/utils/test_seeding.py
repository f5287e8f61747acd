import pytest
import torch
from scipy import stats

from ae.utils.seeding import derive, generator, normal_like


def test_derive_returns_fixed_seeds() -> None:
    """Other values would change the order of images in every run."""
    assert derive("order", 0, 0) == 4876581156571347824
    assert derive("noise", 3) == 5069319160893184368


def test_derive_separates_keys_of_equal_concatenation() -> None:
    keys = [("a", 1, 11), ("a", 11, 1), ("a", 111), ("a1", 11), ("a", "1", 11), ("a", 1, "11")]
    assert len({derive(*key) for key in keys}) == len(keys)
    assert all(0 <= derive(*key) < 2**63 for key in keys)


def test_generator_depends_on_its_key_only() -> None:
    first = torch.rand(3, generator=generator("a", 1))
    torch.rand(7)
    assert torch.equal(torch.rand(3, generator=generator("a", 1)), first)
    assert not torch.equal(torch.rand(3, generator=generator("a", 2)), first)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normal_like_keeps_shape_dtype_and_memory_format(channels: int, memory_format: torch.memory_format) -> None:
    x = torch.empty(50, channels, 40, 30, dtype=torch.float64).contiguous(memory_format=memory_format)
    torch.manual_seed(0)
    drawn = normal_like(x)
    assert drawn.shape == x.shape
    assert drawn.dtype == x.dtype
    assert drawn.is_contiguous(memory_format=memory_format)
    statistic, p_value = stats.kstest(drawn.flatten().numpy(), "norm")
    assert p_value > 0.01, statistic
    torch.manual_seed(0)
    assert torch.equal(normal_like(x), drawn)
    assert normal_like(torch.zeros(3, 4)).shape == (3, 4)
