"""Training state in a file that is written whole or not at all, and that runs nothing when it is read."""

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ae.errors import InputError
from ae.files import write_whole


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write training state; the one before it stays beside it, as in `state.prev.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue(), keep=_previous(path))


def load_state(path: Path) -> dict[str, Any] | None:
    """Read training state, or the one before it where that one is broken or not there; None where there is none.

    Nothing in the file is executed. Raises InputError where both are broken.
    """
    complaints = []
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            state = _read(candidate)
        except InputError as error:
            complaints.append(str(error))
            continue
        for complaint in complaints:
            print(f"{complaint}; going on from the one before it, {candidate}", file=sys.stderr, flush=True)
        return state
    if complaints:
        raise InputError("; ".join(complaints))
    return None


def discard_broken(path: Path) -> None:
    """Remove training state that can't be read, so that the next one written does not push out the one before it."""
    if path.exists():
        try:
            _read(path)
        except InputError:
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """What a file of training state holds; every byte of its content is checked against the sums stored with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise InputError(f"the training state in {path} is broken: {broken} is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # broken bytes can lead the reader to anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"can't read the training state in {path}: {reason}") from error


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.prev")
