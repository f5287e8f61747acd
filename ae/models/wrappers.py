"""Modules inside the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`, and their names."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from ae.models.renamed import renamed_tensors

Value = TypeVar("Value")


def unwrapped(module: Any) -> Any:
    """The module inside all wrappers around it; anything that is not wrapped is returned as it is."""
    while isinstance(module, nn.Module) and (inner := _inner_name(module)) is not None:
        module = module.get_submodule(inner)
    return module


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict under the names that it has without wrappers, of any of its submodules."""
    return {_plain_name(module, name): tensor for name, tensor in module.state_dict().items()}


def plain_names(module: nn.Module) -> dict[str, str]:
    """The name of each tensor of the module's state dict -> its name without wrappers."""
    return {name: _plain_name(module, name) for name in module.state_dict()}


def with_names_of(module: nn.Module, state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under the names that `module` has for it, whatever was wrapped, and whichever version saved it.

    A name that the module does not know is kept.
    """
    names = {_plain_name(module, name): name for name in module.state_dict()}
    return {_known(name, names): value for name, value in renamed_tensors(state, names).items()}


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict without the prefixes that wrappers around the whole module, and compiled submodules, give."""
    plain = {_dropped(name, "_orig_mod"): value for name, value in state.items()}
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    return plain


def _known(name: str, names: Mapping[str, str]) -> str:
    compiled = _dropped(name, "_orig_mod")
    for candidate in (name, compiled, _dropped(compiled, "module")):
        if candidate in names:
            return names[candidate]
    return name


def _dropped(name: str, part: str) -> str:
    return ".".join(each for each in name.split(".") if each != part)


def _plain_name(module: nn.Module | None, name: str) -> str:
    kept = []
    for part in name.split("."):
        if module is None or _inner_name(module) != part:
            kept.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(kept)


def _inner_name(module: nn.Module) -> str | None:
    """The name of the one submodule of a wrapper; None for any other module."""
    if "_orig_mod" in module._modules:  # of torch.compile; its class is slow to import
        return "_orig_mod"
    return "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None
