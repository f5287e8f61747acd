"""Activation checkpointing: activations inside a stage are computed again in the backward pass, not kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ae.training.stages import stages_of


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint every stage of an Autoencoder's encoder and decoder, with the same gradients.

    Chen et al. 2016 (training deep nets with sublinear memory cost), section 3. Noise is the same in both passes, and
    buffers, such as batch norm's statistics, are updated once. Raises InputError for a model that is no Autoencoder.
    """
    stages = stages_of(model, "Recipe.checkpointing")
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


def _recomputed(stage: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    """Call a stage so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    if torch.compiler.is_compiling():  # the compiler takes no contexts, and updates buffers once
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, stage), **options)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the forward pass and of the second one."""
    return nullcontext(), KeepBuffers(stage)


class KeepBuffers(AbstractContextManager[None]):
    """Restore a stage's buffers on exit; entered again for each pass of a derivative of a derivative."""

    def __init__(self, stage: nn.Module) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in self._stage.buffers()]

    @torch.no_grad()
    def __exit__(self, *exception: object) -> None:
        for buffer, value in self._before:
            buffer.copy_(value)
