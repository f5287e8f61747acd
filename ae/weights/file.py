"""Write and read files of weights: safetensors with a description of the model. Nothing in a file is executed."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from ae.models.lazy import check_materialised, is_uninitialized
from ae.models.wrappers import plain_names, plain_state, unwrapped, with_names_of, without_wrappers
from ae.utils.errors import InputError, one_line
from ae.utils.files import write_whole
from ae.utils.validation import Positive, checked_arguments
from ae.weights.header import check_header
from ae.weights.metadata import Metadata, describe


@checked_arguments
def save_weights(
    path: Path | str,
    model: nn.Module,
    image: Sequence[Positive[int]] | None = None,
    classes: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the model's weights and its description.

    The bytes depend on the arguments and the versions only: no time, path or id is written. Prefixes of wrappers
    (`torch.compile`, `DataParallel`, `DistributedDataParallel`) are removed from names. Shared weights are written
    under each of their names. Raises InputError for a lazy module that was never called.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: give a file in it, as in {Path(path) / 'model.safetensors'}")
    model = unwrapped(model)
    check_materialised(model)
    state = plain_state(model)
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("ae", "torch")}}
    metadata = Metadata(
        describe(model),
        None if image is None else tuple(image),
        tuple(classes),
        {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},  # JSON has no NaN or infinity
        versions,
        tied=_tied(model),
    )
    content = {name: value for name, value in asdict(metadata).items() if name != "tied" or value}
    write_whole(Path(path), save(_unshared(state), {"ae": json.dumps(content, sort_keys=True)}))


@checked_arguments
def load_weights(path: Path | str, module: nn.Module, part: str | None = None, strict: bool = True) -> None:
    """Read a file's weights into a module: all of them, or those of one `part` of the model, such as `encoder`.

    With `strict`, module and file must have the same tensors; otherwise the tensors in both are read. Raises InputError
    that names missing and unexpected tensors and those of another shape or dtype, and leaves the module unchanged.
    """
    tensors = without_wrappers(_read_tensors(path))
    if part is not None:
        prefix = f"{part}."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not tensors:
            raise InputError(f"no weights of {part} in {path}")
    expected = plain_state(module)
    names = plain_names(module)
    module_names = {plain: name for name, plain in names.items()}
    tensors = {names.get(name, name): tensor for name, tensor in with_names_of(module, tensors).items()}
    mismatched = [
        f"{name} is {_kind(tensors[name])}, must be {_kind(tensor)}"
        for name, tensor in expected.items()
        if name in tensors and not is_uninitialized(tensor) and _kind(tensors[name]) != _kind(tensor)
    ]
    missing = [name for name in expected if name not in tensors] if strict else []
    unexpected = [name for name in tensors if name not in expected] if strict else []
    problems = [("missing", missing), ("unexpected", unexpected), ("misshapen", mismatched)]
    description = "; ".join(f"{name}: {_listed(names)}" for name, names in problems if names)
    if description:
        is_parametrized = any(".parametrizations." in f".{name}" for name in unexpected)
        advice = "; modules with parametrizations are given as they were built" if is_parametrized else ""
        raise InputError(f"the weights in {path} don't fit: {description}{advice}")
    if not tensors.keys() & expected.keys():
        raise InputError(f"the weights in {path} don't fit: no tensor has a name that the module knows")
    is_on_meta = any(tensor.is_meta for tensor in expected.values())
    fitting = {module_names[name]: tensor for name, tensor in tensors.items() if name in expected}
    module.load_state_dict(fitting, strict=False, assign=is_on_meta)


def _tied(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Group the names of each parameter that has several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    plain = plain_names(model)
    return tuple(tuple(plain[name] for name in group) for group in names.values() if len(group) > 1)


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors to the CPU, contiguous, and clone those that share memory."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        copied = tensor.detach().cpu().contiguous()
        storage = copied.untyped_storage().data_ptr()
        tensors[name] = copied.clone() if storage in seen else copied
        seen.add(storage)
    return tensors


def _read_tensors(path: str | Path) -> dict[str, Tensor]:
    check_header(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises many types of exceptions
        raise InputError(f"can't read {path}: {one_line(error)}") from error


def _kind(tensor: Tensor) -> str:
    """Shape and dtype of a tensor, for messages."""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _listed(names: Sequence[str], count: int = 8) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
