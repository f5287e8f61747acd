"""Lazy modules, such as `nn.LazyLinear`, which are uninitialised until the first call."""

from torch import Tensor, nn

from ae.utils.errors import InputError


def is_uninitialized(tensor: Tensor) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return nn.parameter.is_lazy(tensor)


def check_materialised(module: nn.Module) -> None:
    """Raise InputError if a lazy module is uninitialised."""
    names = [name for name, parameter in module.named_parameters() if is_uninitialized(parameter)]
    if names:
        raise InputError(
            f"{names[0]} is of a lazy module, which gets its weights when it is first called: call it once"
        )
