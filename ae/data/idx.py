"""IDX archives, the format of MNIST (yann.lecun.com/exdb/mnist): a gzipped header with the shape, then the bytes."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ae.errors import InputError

_UINT8 = 8


def read_idx(path: Path, sha256: str) -> UInt8[Tensor, "..."]:
    """The uint8 array in a gzipped IDX file, in its own shape.

    Raises InputError, which names the file, where it is missing, or its SHA-256 is another one (corrupt, truncated), or
    it holds no IDX array of bytes.
    """
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    found = hashlib.sha256(archive).hexdigest()
    if found != sha256:
        raise InputError(f"{path} is corrupt or truncated: SHA-256 expected {sha256}, found {found}")
    try:
        raw = gzip.decompress(archive)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no gzip archive: {error}") from error
    dims = raw[3] if len(raw) > 3 else 0
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i]) for i in range(dims)]
    header = 4 + 4 * dims
    if raw[:3] != bytes([0, 0, _UINT8]) or not dims or len(raw) != header + math.prod(shape):
        raise InputError(f"{path} holds no IDX array of bytes: {len(raw)} bytes that begin with {raw[:4].hex()}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[header:].reshape(shape)
