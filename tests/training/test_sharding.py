"""Sharding in one process: refused; in several: `tests/helpers/in_processes/sharding.py`."""

import pytest
import torch
from torch import nn

from ae import InputError, Joint, Recipe, Splits, fit
from ae.training.sharding import sharding_errors, without_weights
from tests.helpers.small import autoencoder


def test_fit_refuses_to_shard_in_one_process(digits: Splits) -> None:
    with pytest.raises(InputError, match=r"Recipe\.shard needs several processes: torchrun --nproc-per-node 2"):
        fit(autoencoder(), Joint(), digits, Recipe(steps=1, shard=True))


def test_recipe_refuses_to_shard_compiled() -> None:
    with pytest.raises(InputError, match=r"Recipe\.shard and Recipe\.compile don't go together: leave one out"):
        Recipe(shard=True, compile=True)


def test_without_weights_copies_structure_and_ties_on_the_meta_device() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, nn.BatchNorm1d(3), second).eval()
    copied = without_weights(model)
    assert all(tensor.is_meta for tensor in copied.state_dict().values())
    assert copied[0].weight is copied[2].weight  # type: ignore[index]
    assert not copied.training
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    copied.load_state_dict(model.state_dict(), assign=True)
    x = torch.randn(2, 3)
    assert torch.equal(copied(x), model(x))


def test_errors_of_unsharded_training_stay_as_they_are() -> None:
    text = "aten.mul got mixed torch.Tensor and DTensor"
    with pytest.raises(RuntimeError, match="mixed"), sharding_errors(is_sharded=False):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="something else"), sharding_errors(is_sharded=True):
        raise RuntimeError("something else")
