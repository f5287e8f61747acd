"""Stages of an Autoencoder's encoder and decoder, which are recomputed or sharded one at a time."""

from torch import nn

from ae.models.autoencoder import Autoencoder
from ae.utils.errors import InputError


def stages_of(model: nn.Module, setting: str) -> list[nn.Module]:
    """Return every stage once: a child of the encoder or decoder, or an element of a list or dict of modules in it.

    A part without children is one stage. Raises InputError, which names the setting, for a model that is no
    Autoencoder.
    """
    if not isinstance(model, Autoencoder):
        raise InputError(f"{setting} is of an Autoencoder's encoder and decoder, got {type(model).__name__}")
    parts = [part for part in (model.encoder, model.decoder) if part is not None]
    return list(dict.fromkeys(stage for part in parts for stage in _children(part) or [part]))


def _children(part: nn.Module) -> list[nn.Module]:
    """The children of a module; of one that is never called, such as a `ModuleList`, its elements."""
    stages: list[nn.Module] = []
    for child in part.children():
        stages += _children(child) if type(child).forward is nn.Module.forward else [child]
    return stages
