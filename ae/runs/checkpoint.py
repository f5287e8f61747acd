"""Training state in a file: atomic writes, and reads that check every byte and execute no code."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.files import check_regular, describe, exists, is_count, is_number, write_whole


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state, and keep the previous state beside it, as `state.prev.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue(), keep=_previous(path))


def load_state(path: Path) -> dict[str, Any] | None:
    """Read the training state, or the previous state if it is broken or missing; None if both are missing.

    No code of the files is executed. Raises InputError if no state can be read, or a path is no regular file.
    """
    complaints = []
    for candidate in (path, _previous(path)):
        if not exists(candidate):
            continue
        check_regular(candidate)
        try:
            state = _read(candidate)
        except InputError as error:
            complaints.append(str(error))
            continue
        for complaint in complaints:
            say(f"{complaint}; continuing from the previous state, {candidate}", error=True)
        return state
    if complaints:
        raise InputError("; ".join(complaints))
    return None


def discard_broken(path: Path) -> None:
    """Remove a broken training state, so that the next `save_state` does not replace the previous state by it."""
    if exists(path):
        try:
            _read(path)
        except InputError:
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """Read a training state; every byte is checked against the file's checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken_member = archive.testzip()
        if broken_member is not None:
            raise InputError(f"the training state in {path} is broken: {broken_member} has a wrong checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # broken bytes may raise any exception in the reader
        reason = one_line(error).split(". ")[0]
        raise InputError(f"can't read the training state in {path}: {reason}") from error
    for fault in _faults(state):
        raise InputError(f"can't read the training state in {path}: {fault}")
    return state


def _faults(state: Any) -> Iterator[str]:
    """Yield a complaint for each entry of a wrong type; missing entries are ignored."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        yield f"it must be a dict of named values, got {describe(state)}"
        return
    for name in ("position", "trained", "optimizers", "meter"):
        if not isinstance(state.get(name, {}), dict):
            yield f"{name} must be a dict, got {describe(state[name])}"
    for key, value in _items(state.get("position")):
        if key in ("step", "images") and not is_count(value):
            yield f"{key} must be a whole number from 0, got {describe(value)}"
        if key == "micro_batch" and value is not None and not (is_count(value) and value):
            yield f"micro_batch must be a positive whole number, got {describe(value)}"
        if key in ("seconds", "validation_seconds", "best") and not _is_real(value):
            yield f"{key} must be a number, got {describe(value)}"
        if key == "validation" and not (isinstance(value, dict) and all(map(_is_real, value.values()))):
            yield "validation must be a dict of numbers"
    if not all(isinstance(key, str) for key, _ in _items(state.get("trained"))):
        yield "trained must be a dict of named tensors"
    for key, value in _items(state.get("optimizers")):
        is_state = isinstance(value, dict) and isinstance(value.get("state"), dict)
        if not is_state or not isinstance(value.get("param_groups"), list):
            yield f"optimizers.{key} must be an optimiser's state_dict"


def _items(part: Any) -> list[tuple[Any, Any]]:
    return list(part.items()) if isinstance(part, dict) else []


def _is_real(value: Any) -> bool:
    """Whether a value is a float, or an integer that a float can hold."""
    return isinstance(value, float) or is_number(value)


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.prev")
