"""Atomic writes, reads of regular files with one-line errors, and strict JSON."""

import errno
import json
import math
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ae.utils.errors import InputError, one_line

_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # raised by network and FUSE file systems
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def write_whole(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file atomically: after an interruption `path` holds the old content or the new.

    With `keep`, the old file is renamed to `keep` first; between both renames `path` does not exist.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            _fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files of processes killed in `write_whole`; only for the sole writer of the folder."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            with suppress(OSError):
                path.unlink()


def sync(path: Path) -> None:
    """Call fsync on a file or a folder, so that its content survives a power cut; ignored where unsupported."""
    with suppress(OSError):  # Windows can't open a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def exists(path: Path) -> bool:
    """Whether `path` exists; raises InputError where the system can't tell, as for a name too long."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {_reason(error)}") from error
    return True


def check_regular(path: Path) -> None:
    """Raise InputError unless `path` is a regular file: reading a named pipe or a device may never end."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {_reason(error)}") from error
    if kind != stat.S_IFREG:
        raise InputError(f"can't read {path}: it must be a file, and is {_KINDS.get(kind, 'something else')}")


def read_bytes(path: Path) -> bytes:
    """Read a regular file; raises InputError that names file and cause."""
    check_regular(path)
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise InputError(f"can't read {path}: {_reason(error)}") from error


def read_text(path: Path) -> str:
    """Read a regular file as UTF-8; raises InputError that names file and cause."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"can't read {path}: it must be text in UTF-8, and is not at byte {error.start}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file, with None for NaN and infinity; raises InputError that names the file."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, name: str) -> Any:
    """Parse a JSON text, with None for NaN and infinity; raises InputError that names `name`."""
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _reason(error)
        raise InputError(f"can't read {name}: {reason}") from error


def json_text(content: Any, indent: int | None = None) -> str:
    """Encode as strict JSON: NaN and infinity become null, NumPy scalars and tensors of no dimension plain numbers.

    Raises InputError that names the entry that JSON can't represent.
    """
    return json.dumps(_plain(content, ""), indent=indent, allow_nan=False)


def plain_number(value: Any) -> Any:
    """Convert a NumPy scalar, or a tensor or array without dimensions, to a Python number; return others unchanged."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        with suppress(RuntimeError, ValueError, NotImplementedError):  # a tensor on the meta device
            return value.item()
    return value


def _plain(value: Any, name: str) -> Any:
    value = plain_number(value)
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(each, f"{name}.{key}" if name else str(key)) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each, f"{name}[{i}]") for i, each in enumerate(value)]
    raise InputError(f"{name or 'a value'} must be a number, text, or a list or dict of these, got {describe(value)}")


def describe(value: Any) -> str:
    """Describe a value for a message: an array by type and shape, others by their repr if short, else by type."""
    if getattr(value, "ndim", 0):
        return f"{type(value).__name__} {list(value.shape)}"
    text = repr(value) if not isinstance(value, dict | list | tuple) or len(value) < 9 else ""
    return text if 0 < len(text) <= 60 and "\n" not in text else type(value).__name__


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number within the range of a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 to 2^63 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
