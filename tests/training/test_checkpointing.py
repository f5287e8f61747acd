"""Activation checkpointing: gradients, statistics and noise as without, and fewer kept activations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Classifier,
    Contractive,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    InputError,
    Joint,
    Recipe,
    Splits,
    fit,
)
from ae.data import Batch
from ae.training.checkpointing import checkpointed

JOINT = Joint()


class Noisy(nn.Module):
    """A stage with dropout, and a second input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.drop(self.conv(x).relu()) * scale


class Encoder(nn.Module):
    """Stages that are children, one in a list in a dict, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        block = Noisy()
        self.blocks = nn.ModuleDict({"a": nn.ModuleList([block]), "b": block})

    def forward(self, images: Tensor) -> Tensor:
        (first,) = self.blocks["a"].children()
        return self.blocks["b"](first(self.stem(images), scale=2.0))


def conv_model() -> Autoencoder:
    encoder, decoder = ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True)
    head = Classifier((5,), 10)
    return Autoencoder(encoder, decoder, Gaussian((6, 7, 7), 5), {"digit": head})


def noisy_model() -> Autoencoder:
    return Autoencoder(Encoder(), DeconvDecoder(1, (4,)), heads={"digit": Classifier((4, 14, 14), 10)})


def trained(make: Any, data: Splits, objective: Any = JOINT, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = make()
    fit(model, objective, data, Recipe(steps=4, batch_size=16, lr=0.01, schedule="constant", **options))
    assert not any("forward" in vars(module) for module in model.modules())
    return model.state_dict()


@pytest.mark.parametrize("make", [conv_model, noisy_model])
@pytest.mark.parametrize("options", [{}, {"micro_batch": 6}, {"precision": "bf16"}])
def test_checkpointing_trains_to_the_same_state(make: Any, options: dict[str, Any], digits: Splits) -> None:
    """Weights, and batch norm's statistics and counts of batches, to the bit."""
    expected = trained(make, digits, **options)
    state = trained(make, digits, checkpointing=True, **options)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_checkpointing_takes_derivatives_of_derivatives(digits: Splits) -> None:
    """The second backward pass goes through a stage again, whose statistics are those of one pass."""
    expected = trained(noisy_model, digits, Contractive(0.01))
    state = trained(noisy_model, digits, Contractive(0.01), checkpointing=True)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("noiseless")  # compiled code draws its own noise
def test_checkpointing_trains_compiled(digits: Splits) -> None:
    torch.compiler.reset()
    expected = trained(conv_model, digits, precision="fp32")
    state = trained(conv_model, digits, checkpointing=True, compile=True)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-3, rtol=1e-2)


def kept(model: Autoencoder, batch: Batch) -> int:
    """Bytes of activations that the backward pass of a loss keeps, without parameters."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = Joint(classification=0.0)(model, batch, 0).total
    assert loss.requires_grad
    return sum(sizes.values())


def test_checkpointing_keeps_the_inputs_of_stages_only(digits: Splits) -> None:
    """The encoder keeps two inputs: the images and the first stage's output, and not what is inside its stages."""
    model = Autoencoder(ConvEncoder(1, (8, 8), norm=True), DeconvDecoder(1, (8, 8), norm=True))
    batch = digits.train.batch(slice(32))
    whole = kept(model, batch)
    with checkpointed(model):
        assert kept(model, batch) < whole / 2


def test_checkpointing_wraps_every_stage_once() -> None:
    model = noisy_model()
    with checkpointed(model):
        wrapped = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert wrapped == ["encoder.stem", "encoder.blocks.a.0", "decoder.stages.0"]


def test_checkpointing_refuses_a_model_that_is_no_autoencoder(digits: Splits) -> None:
    def objective(model: nn.Module, batch: Batch, step: int) -> Any:
        raise AssertionError

    with pytest.raises(InputError, match=r"Recipe\.checkpointing is of an Autoencoder's encoder and decoder, got Lin"):
        fit(nn.Linear(3, 3), objective, digits, Recipe(steps=1, checkpointing=True))
