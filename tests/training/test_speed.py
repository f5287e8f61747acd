"""What makes a loop slow, counted rather than timed: waiting for the device, copies of the data, loops over images."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Joint, Recipe, Splits, fit
from ae.data import Augment, Images

# What a device's answer is needed for: a number, or a shape that depends on numbers.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations, and notes the largest tensor that one of them has made."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.counts[func.overloadpacket.__name__] += 1
        if not func.is_view:
            made = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.largest = max([self.largest, *(tensor.numel() for tensor in made)])
        return result

    @property
    def waits(self) -> int:
        """How often the device had to be waited for."""
        return sum(self.counts[name] for name in WAITS)


def training(digits: Splits, steps: int, batch_size: int = 20, **options: Any) -> Operations:
    """What a training does whose only row is its last step's."""
    torch.manual_seed(0)
    heads = {"digit": Classifier((8, 7, 7))}
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads=heads)
    data = Splits(digits.train, augment=Augment(shift=1))
    recipe = Recipe(steps=steps, batch_size=batch_size, log_every=1000, evaluate_every=1000, **options)
    with Operations() as operations:
        fit(model, Joint(), data, recipe)
    return operations


@pytest.mark.parametrize("options", [{}, {"grad_clip": 1.0}, {"optimizer": "adamw"}])
def test_a_step_waits_for_nothing(digits: Splits, options: dict[str, Any]) -> None:
    assert training(digits, 7, **options).waits == training(digits, 3, **options).waits


def test_waiting_is_noticed(digits: Splits) -> None:
    with Operations() as operations:
        assert torch.ones(()).item() == 1
        assert len(torch.ones(3).nonzero()) == 3
    assert operations.waits == 2


def test_nothing_is_as_large_as_the_data(digits: Splits) -> None:
    assert isinstance(digits.train, Images)
    assert training(digits, 3).largest < digits.train.pixels.numel()


def test_what_a_step_does_is_the_same_for_any_number_of_images(digits: Splits) -> None:
    more, fewer = training(digits, 3, batch_size=30), training(digits, 3, batch_size=10)
    assert more.counts == fewer.counts
