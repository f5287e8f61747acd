"""Identity of data sets: shape, classes, images and labels.

The location of the data is no part of the identity, so that a folder may be moved.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ae.data import Images, ImageSet, Splits
from ae.data.sequential import Sequential
from ae.data.streamed import Selection

_SAMPLED = 1000  # items of a table or an array


def data_identity(data: Splits) -> dict[str, Any]:
    """Identity of the training and validation data, as JSON; test images are not read.

    Images in memory are identified by their pixels, streamed files by names and sizes, tables and arrays by 1,000 of
    their images, images read in sequence by the first 1,000, and other data sets by their number of items; all of them
    also by their labels.
    """
    parts = {"training": data.train, "validation": data.validation}
    return {
        "classes": list(data.classes),
        "shape": list(data.shape),
        **{name: _part(images) for name, images in parts.items() if images is not None},
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two identities; empty if the data are the same."""
    messages = []
    if before.get("classes") != after["classes"]:
        messages.append(f"classes {_listed(before.get('classes'))} -> {_listed(after['classes'])}")
    if before.get("shape") != after["shape"]:
        messages.append(f"the images' shape {before.get('shape')!s:.40} -> {after['shape']}")
    for name in ("training", "validation"):
        old, new = before.get(name) or {}, after.get(name) or {}
        if not isinstance(old, Mapping):
            old = {}
        counts = old.get("images", 0), new.get("images", 0)
        if counts[0] != counts[1]:
            messages.append(f"the number of {name} images {counts[0]!s:.40} -> {counts[1]}")
            continue
        changed = [kind for kind in ("content", "labels", "targets") if old.get(kind) != new.get(kind)]
        words = {"content": "the images themselves", "labels": "their labels", "targets": "their targets"}
        if changed:
            messages.append(f"of the {counts[1]} {name} images {' and '.join(words[kind] for kind in changed)}")
    return messages


def _part(images: ImageSet) -> dict[str, Any]:
    targets = {name: _digest(target.values) for name, target in getattr(images, "targets", {}).items()}
    identity = {"images": len(images), "content": _content(images), "labels": _digest(images.labels)}
    return {**identity, "targets": targets} if targets else identity


def _content(images: ImageSet) -> str | None:
    if isinstance(images, Images):
        return _digest(images.pixels)
    if isinstance(images, Sequential):
        return _digest_of(images.content(_SAMPLED))
    items = getattr(images, "items", None)
    paths = _paths(items)
    if paths is None:
        return _sampled(items)
    root = os.path.commonpath([path.parent for path in paths])
    lines = [f"{path.relative_to(root).as_posix()}\t{_size(path)}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _paths(items: Any) -> Sequence[Path] | None:
    """Files that the items of a data set are read from; None if they are not files."""
    if isinstance(items, Selection):
        paths = _paths(items.items)
        return None if paths is None else [paths[i] for i in items.indices.tolist()]
    paths = getattr(items, "paths", None)
    return paths if isinstance(paths, Sequence) and all(isinstance(path, Path) for path in paths) else None


def _sampled(items: Any) -> str | None:
    """Digest of at most 1,000 items, evenly spaced, of a data set that gives the bytes of an item; else None."""
    selected = items if isinstance(items, Selection) else Selection(items, torch.arange(len(items)))
    if not hasattr(selected.items, "content"):
        return None
    sample = torch.linspace(0, len(selected) - 1, min(len(selected), _SAMPLED), dtype=torch.float64).long()
    return _digest_of(selected.items.content(int(selected.indices[i])) for i in sample)


def _digest_of(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reported when the file is read
        return -1


def _digest(values: Tensor) -> str:
    content = values.detach().cpu().contiguous()
    return hashlib.sha256(content.view(torch.uint8).numpy().data).hexdigest()


def _listed(classes: Any) -> str:
    names = [f"{name!s:.40}" for name in classes] if isinstance(classes, list) else []
    return ", ".join(names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")
