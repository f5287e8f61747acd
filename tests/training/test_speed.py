"""Counts of device synchronisations, copies of the data and loops over images in training."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Joint, Recipe, Splits, fit
from ae.data import Augment, Images

# Operations that return a number, or a shape that depends on values, to the host.
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")


class Operations(TorchDispatchMode):
    """Count PyTorch's operations and record the size of the largest new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.counts[func.overloadpacket.__name__] += 1
        if not func.is_view:
            tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return result

    @property
    def synchronisations(self) -> int:
        """Number of operations that wait for the device."""
        return sum(self.counts[name] for name in SYNCHRONISING)


def count_operations(digits: Splits, steps: int, batch_size: int = 20, **options: Any) -> Operations:
    """Count the operations of a training that logs its last step only."""
    torch.manual_seed(0)
    heads = {"digit": Classifier((8, 7, 7))}
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads=heads)
    data = Splits(digits.train, augment=Augment(shift=1))
    recipe = Recipe(steps=steps, batch_size=batch_size, log_every=1000, evaluate_every=1000, **options)
    with Operations() as operations:
        fit(model, Joint(), data, recipe)
    return operations


@pytest.mark.parametrize("options", [{}, {"grad_clip": 1.0}, {"optimizer": "adamw"}])
def test_fit_step_does_not_synchronise(digits: Splits, options: dict[str, Any]) -> None:
    long, short = (count_operations(digits, steps, **options) for steps in (7, 3))
    assert long.synchronisations == short.synchronisations


def test_operations_counts_synchronisations(digits: Splits) -> None:
    with Operations() as operations:
        assert torch.ones(()).item() == 1
        assert len(torch.ones(3).nonzero()) == 3
    assert operations.synchronisations == 2


def test_fit_makes_no_tensor_as_large_as_the_data(digits: Splits) -> None:
    assert isinstance(digits.train, Images)
    assert count_operations(digits, 3).largest < digits.train.pixels.numel()


def test_fit_step_has_the_same_operations_for_any_batch_size(digits: Splits) -> None:
    large, small = count_operations(digits, 3, batch_size=30), count_operations(digits, 3, batch_size=10)
    assert large.counts == small.counts
