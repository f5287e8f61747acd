"""Inference: the context that every evaluation runs in, and the codes of a whole data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ae.data import Batch, ImageSet
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.utils.memory import keep_freed_memory
from ae.utils.validation import unchecked_range

Value = TypeVar("Value")


@contextmanager
def evaluating(*models: nn.Module, fork_rng: bool = False) -> Iterator[None]:
    """Put models in evaluation mode, without gradients and without checks of the range of images and labels.

    On exit every submodule has its mode back, and with `fork_rng` every random generator its state.
    """
    keep_freed_memory()
    modes = [(module, module.training) for model in models for module in model.modules()]
    with torch.no_grad(), unchecked_range(), torch.random.fork_rng() if fork_rng else nullcontext():
        for model in models:
            model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def computed_once(model: nn.Module) -> Iterator[None]:
    """Compute the code of a batch, and the likelihood's parameters of a code, once for all that read them.

    Of an Autoencoder, `encode` and `decode_params` return their last result for the tensor that they were last given.
    Metrics and an objective, which read the same images, share a forward pass and its noise.
    """
    names = ("encode", "decode_params") if isinstance(model, Autoencoder) else ()
    own = {name: vars(model)[name] for name in names if name in vars(model)}
    for name in names:
        setattr(model, name, _keeping_last(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
        vars(model).update(own)


def _keeping_last(function: Callable[..., Value]) -> Callable[..., Value]:
    last: tuple[Tensor, tuple[Any, ...], Value] | None = None

    def call(tensor: Tensor, *arguments: Any) -> Value:
        nonlocal last
        if last is None or last[0] is not tensor or last[1] != arguments:
            last = tensor, arguments, function(tensor, *arguments)
        return last[2]

    return call


def encode_batches(
    model: Autoencoder, images: ImageSet, read: Callable[[Batch, Code], Value], batch_size: int = 256
) -> Iterator[Value]:
    """Encode a data set in order and yield `read(batch, code)` of each batch, on the model's device.

    Both the encoder and `read` run in the context of `evaluating`.
    """
    device = next(model.parameters()).device
    for batch in images.to(device).in_order(batch_size):
        with evaluating(model):  # not across a yield: a caller that stops early must not stay in it
            value = read(batch, model.encode(batch.images))
        yield value
