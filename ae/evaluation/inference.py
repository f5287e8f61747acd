"""Inference: the context that every evaluation runs in, and the codes of a whole data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ae.data import Batch, ImageSet
from ae.models.autoencoder import Autoencoder, Output
from ae.models.bottlenecks import Code
from ae.utils.memory import keep_freed_memory
from ae.utils.validation import unchecked_range

Value = TypeVar("Value")


@contextmanager
def evaluating(*models: nn.Module, fork_rng: bool = False) -> Iterator[None]:
    """Put models in evaluation mode, without gradients and without checks of the range of images and labels.

    On exit every submodule has its mode back, and with `fork_rng` every random generator its state.
    """
    if not any(parameter.is_cuda for model in models for parameter in model.parameters()):
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
def reusing(model: nn.Module, images: Tensor, output: Output | None) -> Iterator[None]:
    """Give the first `encode(images)`, and the first `decode_params` of its code, the result in `output`.

    So an objective shares the forward pass of the metrics, and its noise. Every further call computes anew: a second
    code of the same images has noise of its own.
    """
    if not isinstance(model, Autoencoder) or output is None:
        yield
        return
    version = _version(images)  # an objective may change the images in place
    own: dict[str, Any] = {name: vars(model)[name] for name in ("encode", "decode_params") if name in vars(model)}
    encode, decode_params, shared = model.encode, model.decode_params, [output.code]

    def first_encode(*arguments: Any, **options: Any) -> Code:
        is_same = not options and len(arguments) == 1 and arguments[0] is images and _version(images) == version
        return shared.pop() if shared and is_same else encode(*arguments, **options)

    params = [output.params] if output.params is not None else []

    def first_params(*arguments: Any, **options: Any) -> Tensor:
        is_same = not options and len(arguments) == 2 and arguments[0] is output.code.z
        is_same = is_same and tuple(arguments[1] or ()) == tuple(images.shape[-2:])
        return params.pop() if params and is_same else decode_params(*arguments, **options)

    vars(model).update(encode=first_encode, decode_params=first_params)
    try:
        yield
    finally:
        del model.encode, model.decode_params
        vars(model).update(own)


def _version(tensor: Tensor) -> int | None:
    """The number of changes in place; None in inference mode, which does not count them."""
    return None if tensor.is_inference() else tensor._version


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
