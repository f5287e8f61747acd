"""What is looked at before training begins, so that what can't be trained is refused in one line."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ae.data import ImageSet, Splits
from ae.evaluation.metrics import evaluating
from ae.models.autoencoder import Autoencoder, Output
from ae.models.freezing import TrainingMode
from ae.models.lazy import is_uninitialized
from ae.models.wrappers import unwrapped
from ae.objectives import only_head
from ae.utils.errors import InputError
from ae.utils.seeding import reseed
from ae.utils.validation import unchecked_range


def checked_model(model: Any) -> Autoencoder:
    """The model inside its wrappers; raises InputError unless it is an Autoencoder."""
    model = unwrapped(model)
    if not isinstance(model, Autoencoder):
        what = "the class" if isinstance(model, type) else "a"
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InputError(f"fit trains an Autoencoder(encoder, decoder, ...), got {what} {name}")
    return model


def look_first(
    model: Autoencoder, shown: Autoencoder, mode: TrainingMode, data: Splits, smallest_batch: int, seed: int
) -> None:
    """Run the model once, on one image, which gives lazy modules their weights; raise InputError where

    outputs have not the shapes that they must have, there are labels that its one head has no logit for, or batch norm
    would be given one number of each channel in the smallest batch.
    """
    alone: list[str] = []
    batch = data.train.batch(slice(0, 1))
    device = batch.images.device
    with torch.no_grad(), unchecked_range(), torch.random.fork_rng(), evaluating(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not mode.holds(module):
                hooks.enter_context(_noting_single_values(name, module, alone))
        reseed(device, "first look", seed)
        output = model(batch.images)
        if shown is not model and any(map(is_uninitialized, shown.parameters())):
            shown(batch.images)
    if len(output.logits) == 1:
        for images in (data.train, data.validation):
            _check_labels(output, images)
    if smallest_batch == 1 and alone:
        raise InputError(
            f"a batch of one image gives batch norm in {alone[0]} one number of each channel, which has no variance: "
            f"choose a Recipe.batch_size that does not leave one of the {len(data.train)} training images over"
        )


@contextmanager
def explained(is_compiled: bool) -> Iterator[None]:
    """Inside, an error of the compiler is one line."""
    try:
        yield
    except RuntimeError as error:
        if not is_compiled or not _is_of_compiler(error):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        cure = "install a C++ compiler, or train without Recipe.compile" if "ompiler" in reason else ""
        raise InputError(f"Recipe.compile failed: {reason}: {cure or 'train without it'}") from error


@contextmanager
def _noting_single_values(name: str, module: nn.Module, found: list[str]) -> Iterator[None]:
    """Inside, note the name of a module when it is given one number of each channel."""

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    hook = module.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _check_labels(output: Output, images: ImageSet | None) -> None:
    count = only_head(output.logits).shape[1]
    highest = -1 if images is None else int(images.labels.max())
    if highest >= count:
        (head,) = output.logits
        raise InputError(
            f"the head {head} gives {count} logits, for labels 0 to {count - 1}; there is a label {highest}"
        )


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
