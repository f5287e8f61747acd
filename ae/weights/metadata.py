"""The description of a model in the header of its file of weights.

The header has one key, `ae`: sorted JSON with `format`, `model` (each module's class and constructor arguments) and,
from format 2 on, `image` [c h w], `classes`, `metrics` and `versions`. Format 3 has the names of version 0.2
(`ae.models.renamed`).
"""

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ae.models.renamed import renamed_description
from ae.models.wrappers import unwrapped
from ae.utils.errors import InputError, one_line
from ae.utils.validation import Positive, checked, checked_arguments
from ae.weights.header import check_header

FORMAT = 3
_Shape = tuple[Positive[int], Positive[int], Positive[int]]


@dataclass(frozen=True)
class Metadata:
    """Description of a model in its file of weights.

    model     class of each module, and its constructor arguments if the class is part of `ae`
    image     shape [c h w] of the training images; None if unknown
    classes   names of the classes
    metrics   values measured with these weights
    versions  versions of Python, ae and torch
    format    format of the file
    tied      groups of names that share a tensor, such as the weights of a tied decoder
    """

    model: dict[str, Any]
    image: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    tied: tuple[tuple[str, ...], ...] = ()


def describe(module: nn.Module) -> dict[str, Any]:
    """Describe a module by its class and, for classes of `ae`, the attributes named as its constructor arguments."""
    module = unwrapped(module)
    kind = type(module)
    if kind.__module__.split(".")[0] != "ae":
        return {"class": f"{kind.__module__}.{kind.__qualname__}"}
    parameters = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {"class": kind.__qualname__, **{name: _describe_value(getattr(module, name)) for name in parameters}}


def _describe_value(value: Any) -> Any:
    match value:
        case nn.ModuleDict():
            return {name: describe(module) for name, module in value.items()}
        case nn.Module():
            return describe(value)
        case Tensor():
            return value.flatten().tolist()
    return value


@checked_arguments
def read_metadata(path: Path | str) -> Metadata:
    """Read the description in a file of weights; raises InputError if file or description is invalid."""
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        content = json.loads(metadata["ae"])
        if not isinstance(content, dict):
            raise TypeError("its description is of the wrong kind")
        if type(content["format"]) is not int or not isinstance(content["model"], dict):
            raise TypeError("format or model is of the wrong kind")
    except KeyError as error:
        advice = "read it with load_weights(path, module)"
        raise InputError(f"{path} does not say what model it holds (no {error} in its header): {advice}") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"can't read {path}: {one_line(error)}") from error
    if content["format"] > FORMAT:
        required = f"a version of ae that writes format {FORMAT} or older"
        raise InputError(f"{path} is of format {content['format']}, newer than this version of ae: it needs {required}")
    try:
        image = content.get("image")
        return Metadata(
            model=content["model"] if content["format"] >= 3 else renamed_description(content["model"]),
            image=None if image is None else checked(image, _Shape, "image"),
            classes=checked(content.get("classes", []), tuple[str, ...], "classes"),
            metrics=_checked_values(content.get("metrics", {}), int | float, "metrics"),
            versions=_checked_values(content.get("versions", {}), str, "versions"),
            format=checked(content["format"], Positive[int], "format"),
            tied=checked(content.get("tied", []), tuple[tuple[str, ...], ...], "tied"),
        )
    except InputError as error:
        raise InputError(f"can't read {path}: {shortened(error)}") from error


def _checked_values(content: Any, kind: Any, name: str) -> dict[str, Any]:
    """Check a mapping from text to values of one type; numbers may be NaN or infinite."""
    if not isinstance(content, dict) or not all(isinstance(value, kind) for value in content.values()):
        raise InputError(f"{name} is of the wrong kind")
    return content


def shortened(value: object) -> str:
    """The value as text of at most 100 characters, for messages."""
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
