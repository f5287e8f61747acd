"""Activation checkpointing: activations inside a stage are computed again in the backward pass, not kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ae.models.autoencoder import Autoencoder
from ae.utils.errors import InputError


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint every stage of an Autoencoder's encoder and decoder, with the same gradients.

    Chen et al. 2016 (training deep nets with sublinear memory cost), section 3. A stage is a child of the encoder or
    the decoder, or an element of a `ModuleList` or `ModuleDict` in it. Noise is the same in both passes, and buffers,
    such as batch norm's statistics, are updated once. Raises InputError for a model that is no Autoencoder.
    """
    if not isinstance(model, Autoencoder):
        raise InputError(f"Recipe.checkpointing is of an Autoencoder's encoder and decoder, got {type(model).__name__}")
    parts = [part for part in (model.encoder, model.decoder) if part is not None]
    stages = list(dict.fromkeys(stage for part in parts for stage in _stages(part) or [part]))  # shared ones once
    own = {stage: vars(stage).get("forward") for stage in stages}
    for stage in stages:
        stage.forward = partial(_recomputed, stage, stage.forward)
    try:
        yield
    finally:
        for stage, forward in own.items():
            if forward is None:
                del stage.forward
            else:
                stage.forward = forward


def _stages(part: nn.Module) -> list[nn.Module]:
    """The children of a module; of a list or dict of modules, which is never called, its elements."""
    stages: list[nn.Module] = []
    for child in part.children():
        stages += _stages(child) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
    return stages


def _recomputed(stage: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    """Call a stage so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    if torch.compiler.is_compiling():  # the compiler takes no contexts, and updates buffers once
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, stage), **options)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the forward pass and of the second one."""
    return nullcontext(), _keeping_buffers(stage)


@contextmanager
def _keeping_buffers(stage: nn.Module) -> Iterator[None]:
    """Restore the stage's buffers on exit."""
    before = [(buffer, buffer.clone()) for buffer in stage.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
