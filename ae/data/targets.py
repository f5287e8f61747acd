"""Targets of a data set beside its labels: values to predict of each image, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ae.functional import LABEL
from ae.utils.errors import InputError


@dataclass(frozen=True)
class Target:
    """Values [n ...] of a target, one for each image.

    values   integers, such as classes, with -1 where missing; or floats, with NaN where missing
    classes  names of the classes of an integer target; without any, their numbers
    """

    values: Shaped[Tensor, "n *shape"]
    classes: tuple[str, ...] = ()

    def __getitem__(self, index: Int64[Tensor, " m"] | slice) -> "Target":
        return replace(self, values=self.values[index])

    def to(self, device: torch.device | str) -> "Target":
        """Copy the values to a device."""
        return replace(self, values=self.values.to(device))

    def batch(self, index: Int64[Tensor, " b"] | slice) -> Shaped[Tensor, "b *shape"]:
        """The values at `index`, as int64 or float32."""
        values = self.values[index]
        return values.float() if values.is_floating_point() else values.long()


def as_targets(targets: Any, count: int) -> dict[str, Target]:
    """Check targets: a mapping of names to tensors, arrays, sequences of numbers or `Target`, of `count` values each.

    Booleans become 0 and 1. Raises InputError that names the target for other values, a wrong count, integers below -1,
    and the name `label`, which is that of the labels.
    """
    if not isinstance(targets, Mapping):
        raise InputError(f"targets must be a mapping of names to values [{count} ...], got {type(targets).__name__}")
    for name in targets:
        if not isinstance(name, str) or not name or "/" in name or name == LABEL:
            reason = "give those as labels" if name == LABEL else "text without a slash"
            raise InputError(f"the name of a target must be another: {reason}, got {name!r}")
    return {name: _as_target(name, value, count) for name, value in targets.items()}


def _as_target(name: str, target: Any, count: int) -> Target:
    classes = target.classes if isinstance(target, Target) else ()
    values = as_target_values(target.values if isinstance(target, Target) else target, f"the target {name}")
    if len(values) != count:
        raise InputError(f"the target {name} must have {count} values, one for each image, got {len(values)}")
    highest = len(classes) - 1
    if classes and not values.is_floating_point() and values.numel() and int(values.max()) > highest:
        raise InputError(f"the target {name} must be 0 to {highest}, or -1 where missing, got {int(values.max())}")
    return Target(values, classes)


def as_target_values(values: Any, name: str) -> Shaped[Tensor, "n *shape"]:
    """Convert numbers to signed integers or floats; raises InputError, which begins with `name`, for other values."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must hold numbers, got {type(values).__name__}") from error
    if tensor.is_complex() or not tensor.ndim:
        raise InputError(f"{name} must be numbers [n ...], got {tensor.dtype} {list(tensor.shape)}")
    if tensor.dtype == torch.bool:
        return tensor.to(torch.int8)
    if tensor.is_floating_point():
        if tensor.isinf().any():
            raise InputError(f"{name} must be finite, or NaN where missing, got infinity")
        return tensor.float()
    if tensor.dtype == torch.uint8:
        tensor = tensor.to(torch.int16)
    if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        tensor = tensor.to(torch.int64)
    if tensor.numel() and int(tensor.min()) < -1:
        raise InputError(f"{name} must be integers 0 or more, or -1 where missing, got {int(tensor.min())}")
    return tensor


def classes_of(images: Any, target: str) -> tuple[str, ...]:
    """Names of the classes of a data set's target; none if they are unknown."""
    if target == LABEL:
        return tuple(images.classes)
    known = getattr(images, "targets", {}).get(target)
    if known is None or known.values.is_floating_point():
        return ()
    highest = int(known.values.max()) if known.values.numel() else -1
    return known.classes or tuple(str(i) for i in range(highest + 1))


def known_targets(images: Any) -> Mapping[str, Target]:
    """The targets of a data set beside its labels; of images that are read in sequence, those of the first images."""
    targets: Mapping[str, Target] = images.targets
    return targets or {
        name: target for name, target in getattr(images, "read", {}).items() if isinstance(target, Target)
    }


def check_classes(images: Any, target: str, head: str, count: int | None) -> None:
    """Raise InputError if a class of a data set is none of the `count` of a head; both may be None."""
    values = None
    if images is not None and count is not None:
        known = getattr(images, "targets", {}).get(target)
        values = images.labels if target == LABEL else None if known is None else known.values
    if count is None or values is None or not values.numel() or values.is_floating_point():
        return
    highest = int(values.max())
    if highest >= count:
        name = "label" if target == LABEL else f"class of {target}"
        raise InputError(f"the head {head} takes labels 0 to {count - 1}; there is a {name} {highest}")
