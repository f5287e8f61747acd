"""Frozen modules: those that the user set to `.eval()` or `requires_grad_(False)` stay so in training."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from ae.utils.errors import InputError


class TrainingMode:
    """Put modules in training mode, except those that were frozen at construction.

    - A submodule in evaluation mode, in a module in training mode, stays in evaluation mode. A module that is entirely
      in evaluation mode, as returned by `ae.load`, is trained entirely.
    - If all parameters of a module have `requires_grad=False`, its submodules with buffers stay in evaluation mode:
      batch norm uses its running statistics, which stay fixed.

    `average` = (average of a module's weights, the module): the same submodules are frozen in both.
    """

    def __init__(self, modules: Iterable[nn.Module], average: tuple[nn.Module, nn.Module] | None = None) -> None:
        self._modules = list(modules)
        seen = set() if average is None else set(average[0].modules())
        self._frozen: list[nn.Module] = []
        for module in self._modules:
            self._frozen += [part for part in _frozen(module) if part not in seen]
            seen |= set(module.modules())
        if average is not None:
            frozen = set(self._frozen)
            pairs = zip(average[0].modules(), average[1].modules(), strict=True)
            self._frozen += [averaged for averaged, module in pairs if module in frozen]

    def apply(self) -> None:
        """Put all modules in training mode, and the frozen ones in evaluation mode."""
        for module in self._modules:
            module.train()
        for part in self._frozen:
            part.training = False

    def holds(self, module: nn.Module) -> bool:
        """Whether a module stays in evaluation mode."""
        return any(part is module for part in self._frozen)


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that are not frozen; raises InputError if there are none."""
    parameters = list(parameters)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        frozen = "all parameters are frozen: call requires_grad_(True) on the parameters to train"
        raise InputError(frozen if parameters else "there are no parameters")
    return trained


def _frozen(root: nn.Module) -> Iterator[nn.Module]:
    for module in root.modules():
        if root.training and not module.training:
            yield module
        if _has_frozen_parameters(module):
            yield from (part for part in module.modules() if _has(part.buffers(recurse=False)))


def _has_frozen_parameters(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _has(tensors: Iterator[Tensor]) -> bool:
    return next(tensors, None) is not None
