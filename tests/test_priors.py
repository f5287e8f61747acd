"""The prior over codes sees what it may and no more, and learns what can be learned."""

import math

import pytest
import torch

from ae import InputError
from ae.priors import PixelCNN


def test_a_place_depends_on_those_before_it_alone() -> None:
    torch.manual_seed(0)
    prior, index = PixelCNN(5, channels=8, blocks=3), torch.randint(5, (1, 4, 5))
    before = prior(index)
    for row in range(4):
        for column in range(5):
            other = index.clone()
            other[0, row, column] = (other[0, row, column] + 1) % 5
            changed = (prior(other) != before).any(1)[0].flatten()
            place = row * 5 + column
            assert not changed[: place + 1].any()
            assert place == 19 or changed[place + 1 :].any()


def test_it_learns_a_sequence_and_draws_it() -> None:
    """Each code is the one before it plus one; the first is drawn evenly from 4: log 4 nats in all."""
    torch.manual_seed(0)
    prior = PixelCNN(4, channels=16, blocks=2)
    optimizer = torch.optim.AdamW(prior.parameters(), 0.01)

    def grids(count: int) -> torch.Tensor:
        return (torch.randint(4, (count, 1, 1)) + torch.arange(6).reshape(2, 3)) % 4

    for _ in range(150):
        loss = prior.negative_log_likelihood(grids(32)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert prior.negative_log_likelihood(grids(200)).mean().item() == pytest.approx(math.log(4), abs=0.1)
    drawn = prior.sample(200, 2, 3)
    right = ((drawn - drawn[:, :1, :1]) % 4 == torch.arange(6).reshape(2, 3) % 4).all((1, 2))
    assert right.float().mean() > 0.9
    assert drawn[:, 0, 0].bincount(minlength=4).min() > 20


def test_bad_sizes_are_named() -> None:
    with pytest.raises(InputError, match="codes must be positive, got 0"):
        PixelCNN(0)
