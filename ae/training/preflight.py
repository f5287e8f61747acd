"""Checks before the first step of training, which raise InputError with a message of one line."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ae.data import Splits
from ae.data.targets import check_classes
from ae.evaluation.inference import evaluating
from ae.models.autoencoder import Autoencoder
from ae.models.freezing import TrainingMode
from ae.models.heads import class_count, heads_of
from ae.models.lazy import is_uninitialized
from ae.models.wrappers import unwrapped
from ae.utils.errors import InputError, first_line
from ae.utils.seeding import reseed


def checked_model(model: Any, objective: Any) -> nn.Module:
    """Return the model inside its wrappers.

    Raises InputError unless it is a module, and an Autoencoder if the objective's signature asks for one.
    """
    model = unwrapped(model)
    function: Any = objective.forward if isinstance(objective, nn.Module) else objective
    try:
        kinds = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    except ValueError:  # builtin functions have no signature
        kinds = []
    takes_autoencoder = any(kind in (Autoencoder, "Autoencoder") for kind in kinds[:1])
    if isinstance(model, Autoencoder) or (isinstance(model, nn.Module) and not takes_autoencoder):
        return model
    described = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise InputError(f"fit trains an Autoencoder(encoder, decoder, ...), got {described}")


def dry_run(
    model: Autoencoder, evaluated: nn.Module, mode: TrainingMode, data: Splits, smallest_batch: int, seed: int
) -> None:
    """Run the model on one image, which initialises lazy modules, and check its outputs.

    `evaluated` is the model to validate: the model itself or an average of its weights. Raises InputError for outputs
    of a wrong shape, labels without a logit of the one head, and a smallest batch that has one value per channel for
    batch norm.
    """
    affected: list[str] = []
    batch = data.train.batch(slice(0, 1))
    device = batch.images.device
    with evaluating(model, fork_rng=True), ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not mode.holds(module):
                hooks.enter_context(_note_single_values(name, module, affected))
        reseed(device, "first look", seed)
        output = model(batch.images)
        if evaluated is not model and any(map(is_uninitialized, evaluated.parameters())):
            evaluated(batch.images)
    for name, head in heads_of(model).items():
        for images in (data.train, data.validation):
            check_classes(images, head.target, name, class_count(head, output.predictions[name]))
        if head.target in batch.targets:
            head.loss(output.predictions[name], batch.target(head.target))  # InputError for a target of another kind
    if smallest_batch == 1 and affected:
        raise InputError(
            f"a batch of one image gives batch norm in {affected[0]} one value per channel, which has no variance: "
            f"choose a Recipe.batch_size that does not leave one of the {len(data.train)} training images over"
        )


@contextmanager
def compiler_errors(is_compiled: bool) -> Iterator[None]:
    """Raise errors of the compiler as InputError, in one line with a remedy."""
    try:
        yield
    except RuntimeError as error:
        if not is_compiled or not _is_of_compiler(error):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = first_line(cause)
        remedy = (
            "install a C++ compiler, or train without Recipe.compile" if "ompiler" in reason else "train without it"
        )
        raise InputError(f"Recipe.compile failed: {reason}: {remedy}") from error


@contextmanager
def _note_single_values(name: str, module: nn.Module, names: list[str]) -> Iterator[None]:
    """Append the name of a module to `names` when its input has one value per channel."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            names.append(name)

    hook = module.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
