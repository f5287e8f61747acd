"""Modules that the user froze, by `.eval()` or `requires_grad_(False)`, and that training leaves as they are."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from ae.utils.errors import InputError


class TrainingMode:
    """Puts modules in training mode, but for what the user froze before it was made.

    - A submodule that is in evaluation mode, in a module that is in training mode, stays in evaluation mode. A module
      that is in evaluation mode as a whole, as `ae.load` returns it, is trained as a whole.
    - Where all parameters of a module are frozen by `requires_grad_(False)`, those of its submodules that have buffers
      stay in evaluation mode: batch norm normalises by its running statistics, which do not move.

    `average` = (an average of a module's weights, the module): it is frozen where the module is.
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
            self._frozen += [own for own, other in pairs if other in frozen]

    def apply(self) -> None:
        """Put all that is not frozen in training mode."""
        for module in self._modules:
            module.train()
        for part in self._frozen:
            part.training = False

    def holds(self, module: nn.Module) -> bool:
        """Whether a module stays in evaluation mode."""
        return any(part is module for part in self._frozen)


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of the parameters that are not frozen; raises InputError where all are."""
    given = list(parameters)
    found = [parameter for parameter in given if parameter.requires_grad]
    if not found:
        wanted = "all parameters are frozen: call requires_grad_(True) on what is to be trained"
        raise InputError(wanted if given else "there are no parameters")
    return found


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
