"""Names of classes, arguments and tensors in files written by version 0.1, and their names since 0.2."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

_CLASSES = {"VectorQuantized": "VectorQuantizer"}
_ARGUMENTS = {
    "VectorQuantized": {"codes": "codebook_size", "revive": "dead_code_threshold"},
    "PixelCNN": {"codes": "codebook_size"},
}
_TENSORS = {
    "reduce": "project_in",
    "restore": "project_out",
    "begun": "initialized",
    "share": "ema_cluster_size",
    "total": "ema_embed_sum",
}


def renamed_description(description: Any) -> Any:
    """Rename the classes and arguments in the description of a module to their names since 0.2."""
    if not isinstance(description, Mapping):
        return description
    kind = description.get("class")
    arguments = _ARGUMENTS.get(kind, {}) if isinstance(kind, str) else {}
    renamed = {arguments.get(name, name): renamed_description(value) for name, value in description.items()}
    if kind == "Autoencoder" and "likelihood" not in renamed:
        renamed["likelihood"] = {"class": "BernoulliLikelihood"}  # its mean is the sigmoid, as in 0.1
    return {**renamed, "class": _CLASSES.get(kind, kind)} if isinstance(kind, str) else renamed


def renamed_tensors(tensors: Mapping[str, Value], expected: Collection[str]) -> dict[str, Value]:
    """Rename tensors to their names since 0.2, where `expected` has only the new name."""

    def current(name: str) -> str:
        new = ".".join(_TENSORS.get(part, part) for part in name.split("."))
        return new if name not in expected and new in expected else name

    return {current(name): tensor for name, tensor in tensors.items()}
