"""IDX files, the format of MNIST (yann.lecun.com/exdb/mnist): a header with the shape, then the values."""

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ae.data.decode import describe_content
from ae.utils.errors import InputError
from ae.utils.files import check_regular

_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: Path, sha256: str | None = None, content_sha256: str | None = None) -> UInt8[Tensor, "..."]:
    """Read the uint8 array of an IDX file, gzipped or not.

    sha256          expected checksum of the file
    content_sha256  expected checksum of the decompressed content

    Raises InputError that names the file if it is missing, not a regular file, fails a checksum, or holds no IDX array
    of bytes.
    """
    check_regular(path)
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    if sha256 is not None:
        _check_digest(path, stored, sha256)
    raw = _unzipped(path, stored) if stored.startswith(_GZIP) else stored
    array = _array(path, raw)
    if content_sha256 is not None:
        _check_digest(path, raw, content_sha256)
    return array


def read_pair(
    images: Path, labels: Path, digests: tuple[str | None, str | None] = (None, None)
) -> tuple[Tensor, Tensor]:
    """Read images [n h w] and labels [n] of two IDX files; `digests` are the SHA-256 of their contents."""
    pixels, numbers = read_idx(images, content_sha256=digests[0]), read_idx(labels, content_sha256=digests[1])
    for path, array, axes, kind in ((images, pixels, 3, "images [n h w]"), (labels, numbers, 1, "labels [n]")):
        if array.ndim != axes:
            swapped = ": images and labels are swapped" if (pixels.ndim, numbers.ndim) == (1, 3) else ""
            raise InputError(f"{path} must hold {kind}, got {list(array.shape)}{swapped}")
    if len(pixels) != len(numbers):
        raise InputError(f"{images} holds {len(pixels):,} images and {labels} {len(numbers):,} labels")
    if not pixels.numel():
        raise InputError(f"no images in {images}: got {list(pixels.shape)}")
    return pixels, numbers.long()


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise InputError(f"{path} is corrupt or truncated: SHA-256 expected {expected}, found {digest}")


def _unzipped(path: Path, stored: bytes) -> bytes:
    """Decompress an archive, until it exceeds the length in its IDX header."""
    chunks, size, length = [], 0, None
    try:
        with gzip.open(io.BytesIO(stored)) as archive:
            while length is None or size <= length:
                chunk = archive.read(_CHUNK)
                if not chunk:
                    break
                length = _length(chunk) if length is None else length
                chunks.append(chunk)
                size += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip archive: {error}") from error
    return b"".join(chunks)


def _length(raw: bytes) -> int:
    """Length of the file in bytes, header included, according to the header."""
    shape = _shape(raw)
    return 4 + 4 * len(shape) + math.prod(shape)


def _shape(raw: bytes) -> list[int]:
    dims = raw[3] if len(raw) > 3 else 0
    return [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i]) for i in range(dims)]


def _array(path: Path, raw: bytes) -> UInt8[Tensor, "..."]:
    shape = _shape(raw)
    if raw[:2] == b"\0\0" and shape and raw[2] != 8 and raw[2] in _TYPES:
        raise InputError(
            f"{path} holds no IDX array of bytes: {len(raw)} bytes, of {_TYPES[raw[2]]} where uint8 is read"
        )
    if raw[:3] != b"\0\0\x08" or not shape or len(raw) != _length(raw):
        kind = describe_content(raw[:512])
        content = f"{len(raw)} bytes that begin with {raw[:4].hex()}" + (f" ({kind})" if kind else "")
        raise InputError(f"{path} holds no IDX array of bytes: {content}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[4 + 4 * len(shape) :].reshape(shape)
