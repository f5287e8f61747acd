"""Check the start of a file of weights, and explain what another kind of file is."""

import struct
import zipfile
from pathlib import Path

from ae.utils.errors import InputError
from ae.utils.files import check_regular, exists

_LARGEST_HEADER = 2**20  # bytes
_START = 64  # bytes read to recognise the kind of a file


def check_header(path: str | Path) -> None:
    """Raise InputError unless the file starts with the length of a safetensors header that fits in the file."""
    path = Path(path)
    if not exists(path):
        raise InputError(f"no weights {path}")
    check_regular(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise InputError(f"{path} is no whole safetensors file{_kind(path, start)}")


def _kind(path: Path, start: bytes) -> str:
    """Name the kind of a file that is not safetensors, and how to proceed; the end of an error message."""
    if not start:
        return ": it is empty"
    if start.startswith(b"version https://git-lfs"):
        return ", but a pointer of Git LFS: git lfs pull gets the file"
    if start.lstrip()[:1] == b"<":
        return ", but a page of HTML or XML: download the file itself"
    if start.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ", but a pickle, which could run anything: save the state dict as safetensors"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return ", but a compressed file: unpack it first"
    if start.startswith(b"\x89HDF"):
        return ", but HDF5, as Keras writes it"
    if start.lstrip()[:1] in (b"{", b"["):
        return ", but JSON"
    return ""


def _zip_kind(path: Path) -> str:
    """Name the kind of a zip file by its entries and the start of the pickle of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not pickled:
                return ", but a zip: unpack it first"
            with archive.open(pickled[0]) as file:
                content = file.read(_LARGEST_HEADER)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return ", but a zip that is broken"
    if b"trained" in content and b"position" in content:
        return ", but the state of a training: load the folder that it is in, or continue the run"
    return ", but what torch.save writes: load it with torch.load(..., weights_only=True) and model.load_state_dict"
