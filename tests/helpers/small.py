"""A small autoencoder, a short recipe, and the tensors that a training changes."""

import torch
from torch import Tensor, nn

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Recipe

SHORT = Recipe(steps=2, batch_size=16, lr=0.01, schedule="constant")


def autoencoder(norm: bool = True, channels: int = 1, classes: int = 10) -> Autoencoder:
    """An autoencoder of digits with one head, of seed 0."""
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(1, (4, 6), norm), DeconvDecoder(channels, (6, 4), norm)
    return Autoencoder(encoder, decoder, heads={"digit": Classifier((6, 7, 7), classes, hidden=8)})


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a module by name."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed_tensors(before: dict[str, Tensor], module: nn.Module) -> list[str]:
    """Return the names of the tensors that differ from `before`."""
    return [name for name, tensor in module.state_dict().items() if not torch.equal(before[name], tensor)]
