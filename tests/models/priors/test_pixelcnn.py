"""PixelCNN: causality, samples and file."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ae import InputError
from ae.models.priors import PixelCNN
from ae.weights import load_prior, save_weights


@pytest.mark.parametrize("size", [(7, 7), (3, 11), (12, 4), (1, 1), (1, 20), (20, 1), (16, 16)])
@pytest.mark.parametrize("blocks", [1, 4])
def test_pixelcnn_is_causal_without_blind_spot(size: tuple[int, int], blocks: int) -> None:
    """Gradient of the logits at each position by the embedding of each position."""
    torch.manual_seed(0)
    prior, places = PixelCNN(5, channels=4, blocks=blocks).double(), math.prod(size)
    embedded = torch.randn(places, 4, dtype=torch.float64, requires_grad=True)
    prior.embedding = torch.nn.Embedding(places, 4)
    prior.embedding.weight = torch.nn.Parameter(embedded)
    logits = prior(torch.arange(places).reshape(1, *size)).flatten(2)[0]  # [codes places]
    probe = torch.randn(5, dtype=torch.float64) @ logits
    rows = [torch.autograd.grad(of_one, prior.embedding.weight, retain_graph=True)[0] for of_one in probe]
    sees = torch.stack(rows).abs().sum(2) > 0
    assert torch.equal(sees, torch.ones(places, places).tril(-1).bool())


def test_pixelcnn_logits_ignore_later_positions() -> None:
    torch.manual_seed(0)
    prior, index = PixelCNN(5, channels=8, blocks=3), torch.randint(5, (1, 4, 5))
    before = prior(index)
    for place in range(20):
        other = index.clone()
        other.flatten()[place:] = torch.randint(5, (20 - place,))
        assert torch.equal(prior(other).flatten(2)[..., : place + 1], before.flatten(2)[..., : place + 1])


def test_pixelcnn_samples_follow_logits() -> None:
    """Compare frequencies of the 16 grids of 2x2 positions and 2 codes with their probabilities."""
    torch.manual_seed(0)
    prior = PixelCNN(2, channels=8, blocks=2)
    grids = torch.tensor(list(itertools.product(range(2), repeat=4))).reshape(16, 2, 2)
    expected = (-prior.negative_log_likelihood(grids)).exp().detach()
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = prior.sample(10_000, 2, 2).flatten(1) @ torch.tensor([8, 4, 2, 1])
    torch.testing.assert_close(drawn.bincount(minlength=16) / 10_000, expected, atol=0.02, rtol=0)


@pytest.mark.slow
def test_pixelcnn_learns_and_samples_a_sequence() -> None:
    """Each code is its predecessor plus one; the first is uniform over 4 codes: log 4 nats per grid."""
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


def test_pixelcnn_rejects_invalid_sizes() -> None:
    with pytest.raises(InputError, match="codebook_size must be positive, got 0"):
        PixelCNN(0)


def test_pixelcnn_saved_and_loaded_has_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prior, index = PixelCNN(4, channels=16, blocks=2), torch.randint(4, (3, 5, 6))
    save_weights(tmp_path / "prior", prior)
    assert torch.equal(load_prior(tmp_path / "prior")(index), prior(index))
    save_weights(tmp_path / "none", nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"none holds no PixelCNN but torch.nn.modules.linear.Linear"):
        load_prior(tmp_path / "none")
