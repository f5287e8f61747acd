import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from ae.functional import bernoulli_nll, cross_entropy, gaussian_nll, masked_mean, squared_error
from ae.utils.errors import InputError

SHAPE = (4, 2, 5, 3)


def test_masked_mean_averages_masked_values() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert masked_mean(values).item() == 3.75
    assert masked_mean(values, torch.tensor([True, False, True, False])).item() == 2.5


def test_masked_mean_of_empty_mask_is_zero_with_zero_gradient() -> None:
    values = torch.tensor([1.0, torch.nan], requires_grad=True)
    mean = masked_mean(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0]


def test_squared_error_is_the_mean_over_pixels() -> None:
    a, b = torch.rand(SHAPE), torch.rand(SHAPE)
    for i, value in enumerate(squared_error(a, b).tolist()):
        assert value == pytest.approx(sum((x - y) ** 2 for x, y in zip(*map(flat, (a[i], b[i])), strict=True)) / 30)


def test_bernoulli_nll_equals_log_likelihood() -> None:
    logits, target = torch.randn(SHAPE) * 3, torch.randint(0, 2, SHAPE).float()
    expected = -Bernoulli(logits=logits.double()).log_prob(target.double()).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, target).double(), expected, rtol=1e-5, atol=1e-4)


def test_bernoulli_nll_is_finite_for_extreme_logits_and_takes_grey() -> None:
    grey, p = torch.tensor(0.25), 1 / (1 + math.exp(-2))
    value = bernoulli_nll(torch.full((1, 1, 1, 1), 2.0), grey.reshape(1, 1, 1, 1)).item()
    assert value == pytest.approx(-(0.25 * math.log(p) + 0.75 * math.log(1 - p)))
    assert bernoulli_nll(torch.full((1, 1, 1, 1), 1e4), torch.zeros(1, 1, 1, 1)).item() == 1e4


@pytest.mark.parametrize("std", [1.0, 0.1, 3.0])
def test_gaussian_nll_equals_log_density(std: float) -> None:
    mean, target = torch.rand(SHAPE), torch.rand(SHAPE)
    expected = -Normal(mean.double(), std).log_prob(target.double()).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_nll(mean, target, std).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
def test_image_losses_exclude_masked_pixels(channels: int) -> None:
    a, b = torch.rand(SHAPE), torch.rand(SHAPE)
    mask = torch.rand(4, channels, 5, 3) > 0.5
    mask[3] = False  # an image without unmasked pixels
    chosen = mask.expand(SHAPE)
    for i in range(3):
        picked_a, picked_b = a[i][chosen[i]], b[i][chosen[i]]
        expected = (picked_a - picked_b).square()
        assert squared_error(a, b, mask)[i].item() == pytest.approx(expected.mean().item(), rel=1e-5)
        nats = -Normal(picked_a, 1.0).log_prob(picked_b).sum().item()
        assert gaussian_nll(a, b, mask=mask)[i].item() == pytest.approx(nats, rel=1e-5)
    assert squared_error(a, b, mask)[3].item() == 0
    assert bernoulli_nll(a, b, mask)[3].item() == 0


def test_cross_entropy_is_zero_for_unlabelled() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    values = cross_entropy(logits, labels)
    expected = -logits.double().softmax(1).log()
    assert values[0].item() == pytest.approx(expected[0, 2].item(), rel=1e-5)
    assert values[2].item() == pytest.approx(expected[2, 0].item(), rel=1e-5)
    assert values[[1, 3]].tolist() == [0, 0]


def test_cross_entropy_rejects_labels_out_of_range() -> None:
    with pytest.raises(InputError, match="0 to 2, or -1 for unlabelled: there are 3 logits; got 0 to 3"):
        cross_entropy(torch.randn(2, 3), torch.tensor([0, 3]))


def flat(image: torch.Tensor) -> list[float]:
    return image.flatten().tolist()
