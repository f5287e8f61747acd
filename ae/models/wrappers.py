"""Remove the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel` from modules and names."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from ae.models.renamed import renamed_tensors

Value = TypeVar("Value")


def unwrapped(module: Any) -> Any:
    """The module inside all wrappers; any other value is returned unchanged."""
    while isinstance(module, nn.Module) and (inner := _inner_name(module)) is not None:
        module = module.get_submodule(inner)
    return module


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict, with the prefixes of all wrappers removed from the names."""
    names = plain_names(module)
    return {names[name]: tensor for name, tensor in module.state_dict().items()}


def plain_names(module: nn.Module) -> dict[str, str]:
    """{name in the module's state dict: name without wrappers}."""
    names = module.state_dict().keys()
    is_wrapped = any(_inner_name(part) is not None for part in module.modules())
    return {name: _plain_name(module, name) if is_wrapped else name for name in names}


def with_names_of(module: nn.Module, state: Mapping[str, Value]) -> dict[str, Value]:
    """Rename a state dict's tensors to the names in `module`, for any wrappers and any version that saved it.

    Unknown names are kept.
    """
    names = {plain: name for name, plain in plain_names(module).items()}
    return {_known(name, names): value for name, value in renamed_tensors(state, names).items()}


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """Remove the prefixes of wrappers around the whole module, and of compiled submodules, from a state dict."""
    plain = {_without(name, "_orig_mod"): value for name, value in state.items()}
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    return plain


def _known(name: str, names: Mapping[str, str]) -> str:
    compiled = _without(name, "_orig_mod")
    for candidate in (name, compiled, _without(compiled, "module")):
        if candidate in names:
            return names[candidate]
    return name


def _without(name: str, part: str) -> str:
    return ".".join(each for each in name.split(".") if each != part)


def _plain_name(module: nn.Module | None, name: str) -> str:
    parts = []
    for part in name.split("."):
        if module is None or _inner_name(module) != part:
            parts.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(parts)


def _inner_name(module: nn.Module) -> str | None:
    """The name of the wrapped submodule; None if `module` is not a wrapper."""
    if "_orig_mod" in module._modules:  # of torch.compile; its class is slow to import
        return "_orig_mod"
    return "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None
