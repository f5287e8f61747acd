import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from ae import InputError
from ae.data.idx import read_idx


def write(path: Path, raw: bytes) -> str:
    """Write a gzip archive, and return its SHA-256."""
    path.write_bytes(gzip.compress(raw))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\0\0\x08\x01\0\0\0\x03\x01\x02\xff", [1, 2, 255]),
        (b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03abcdef", [[97, 98, 99], [100, 101, 102]]),
        (b"\0\0\x08\x03\0\0\0\x01\0\0\0\x01\0\0\x01\x00" + bytes(range(256)), [[list(range(256))]]),
        (b"\0\0\x08\x01\0\0\0\0", []),
    ],
)
def test_read_idx_reads_arrays_of_bytes(tmp_path: Path, raw: bytes, expected: list[int]) -> None:
    array = read_idx(tmp_path / "a.gz", write(tmp_path / "a.gz", raw))
    assert array.dtype == torch.uint8
    assert array.tolist() == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0",
        b"\0\0\x08\0",  # no dimension
        b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",  # floats
        b"\0\0\x08\x01\0\0\0\x03\x01\x02",  # a byte short
        b"\0\0\x08\x01\0\0\0\x03\x01\x02\x03\x04",  # a byte long
        b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a length of 7.9e28 bytes
        b"GIF89a",
    ],
)
def test_read_idx_refuses_other_content(tmp_path: Path, raw: bytes) -> None:
    digest = write(tmp_path / "a.gz", raw)
    with pytest.raises(InputError, match=r"a\.gz holds no IDX array of bytes: \d+ bytes"):
        read_idx(tmp_path / "a.gz", digest)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_read_idx_names_a_damaged_file_and_both_checksums(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.gz"
    expected = write(path, b"\0\0\x08\x01\0\0\0\x03\x01\x02\xff")
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-1], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    message = f"a.gz is corrupt or truncated: SHA-256 expected {expected}, found {digest}"
    with pytest.raises(InputError, match=message):
        read_idx(path, expected)


def test_read_idx_names_a_missing_or_invalid_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't read .*nowhere\.gz: No such file"):
        read_idx(tmp_path / "nowhere.gz", "")
    (tmp_path / "plain").write_bytes(b"plain")
    with pytest.raises(InputError, match="plain holds no IDX array of bytes: 5 bytes"):
        read_idx(tmp_path / "plain", hashlib.sha256(b"plain").hexdigest())
