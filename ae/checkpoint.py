"""Weights and training state in files that are written whole or not at all, and that run nothing when they are read."""

import inspect
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ae.errors import InputError

FORMAT = 1


def write_whole(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file so that `path` holds all of the old content or all of the new, whatever happens in between.

    With `keep`, the old content moves there; for a moment it is there alone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's weights as safetensors; the header's one key, `ae`, describes its modules in sorted JSON.

    The bytes are a function of the model alone: no time, path or id is in them.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    description = {"format": FORMAT, "model": describe(model)}
    write_whole(path, save(tensors, {"ae": json.dumps(description, sort_keys=True)}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read what `save_weights` wrote into a model of the same modules; raises InputError where it doesn't fit."""
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise InputError(f"no weights {path}") from error
    except Exception as error:  # safetensors has an exception of its own for each way to be broken
        raise InputError(f"can't load the weights in {path}: {' '.join(str(error).split())}") from error


def read_description(path: Path) -> dict[str, Any]:
    """What `save_weights` wrote of the model's modules."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["ae"])["model"]


def describe(module: nn.Module) -> dict[str, Any]:
    """The module's class, and for a class of `ae` its constructor's arguments, kept in attributes of their names."""
    kind = type(module)
    if kind.__module__.split(".")[0] != "ae":
        return {"class": f"{kind.__module__}.{kind.__qualname__}"}
    named = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {"class": kind.__qualname__, **{name: _describe_value(getattr(module, name)) for name in named}}


def _describe_value(value: Any) -> Any:
    match value:
        case nn.ModuleDict():
            return {name: describe(module) for name, module in value.items()}
        case nn.Module():
            return describe(value)
        case Tensor():
            return value.flatten().tolist()
    return value


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write training state; the one before it stays beside it, as in `state.prev.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue(), keep=_previous(path))


def load_state(path: Path) -> dict[str, Any] | None:
    """Read training state, or the one before it where a kill left that alone; None where there is none.

    Nothing in the file is executed. Raises InputError where it is broken.
    """
    if not path.exists():
        path = _previous(path)
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken bytes lead it to
        raise InputError(f"can't read the training state in {path}: {str(error).splitlines()[0]}") from error


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.prev")
