"""Training state in a file that is written whole or not at all, and that runs nothing when it is read."""

import io
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
