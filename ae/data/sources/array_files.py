"""Arrays in files: NumPy's .npy and .npz, safetensors, and HDF5."""

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ae.data.arrays import Array
from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra
from ae.utils.files import check_regular

SUFFIXES = (".npz", ".npy", ".safetensors", ".h5", ".hdf5")
_STARTS = {".npy": b"\x93NUMPY", ".npz": b"PK", ".h5": b"\x89HDF", ".hdf5": b"\x89HDF"}
_SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def open_arrays(path: Path) -> Mapping[str, Array]:
    """Open the arrays of a file by name, or of a folder of .npy files by the files' names.

    Arrays are read by indexing; those of an .npz archive are read as a whole here. Raises InputError for another kind
    of file, a damaged one, and arrays of Python objects, which are pickled.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise InputError(f"no .npy files in {path}: Data.root of arrays takes such a folder, or a file of arrays")
        return {file.stem: _open(file)["images"] for file in files}
    if not path.exists():
        raise InputError(f"no file {path}: Data.root of arrays takes a file {', '.join(SUFFIXES)}")
    return _open(path)


def _open(path: Path) -> Mapping[str, Array]:
    check_regular(path)
    start = _STARTS.get(path.suffix.lower(), b"")
    with open(path, "rb") as file:
        if file.read(len(start)) != start:
            raise InputError(f"{path} is no {path.suffix} file: its content is of another kind, or damaged")
    try:
        match path.suffix.lower():
            case ".npy":
                return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
            case ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    return {name: archive[name] for name in archive.files}
            case ".safetensors":
                return _open_safetensors(path)
            case ".h5" | ".hdf5":
                return _open_hdf5(path)
    except InputError:
        raise
    except Exception as error:  # of zipfile, NumPy, h5py and safetensors
        pickled = "holds Python objects: store numbers" if "allow_pickle" in str(error) else one_line(error)
        raise InputError(f"can't read {path}: {pickled}") from error
    raise InputError(f"{path} is no file of arrays: Data.root takes {', '.join(SUFFIXES)}")


def _open_safetensors(path: Path) -> Mapping[str, Array]:
    """Map the tensors of a file into memory."""
    from safetensors import safe_open

    with safe_open(path, framework="np"):  # checks the header, and that the file is whole
        pass
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            raise InputError(f"the tensor {name} of {path} is {entry['dtype']}: store uint8, or float32 in [0, 1]")
        shape, dtype = tuple(entry["shape"]), np.dtype(_SAFETENSORS[entry["dtype"]])
        is_empty = 0 in shape
        begin = 8 + length + entry["data_offsets"][0]
        arrays[name] = np.empty(shape, dtype) if is_empty else np.memmap(path, dtype, "r", begin, shape)
    return arrays


def _open_hdf5(path: Path) -> Mapping[str, Array]:
    """Open the data sets of a file by their paths in it, such as `train/images`."""
    with extra("hdf5", str(path)):
        import h5py

    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return {name: Hdf5Array(path, name, file[name].shape, file[name].dtype) for name in names}


@dataclass(frozen=True)
class Hdf5Array:
    """A data set of an HDF5 file, which is opened once in each process that reads."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Any) -> Any:
        return _hdf5_files.of(self.path)[self.name][index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[()], dtype)


class _Hdf5Files:
    """HDF5 files that this process has opened; a forked process opens them again, since it would share their state."""

    def __init__(self) -> None:
        self._process, self._files = 0, dict[Path, Any]()

    def of(self, path: Path) -> Any:
        import h5py

        if self._process != os.getpid():
            self._process, self._files = os.getpid(), {}
        if path not in self._files:
            self._files[path] = h5py.File(path, "r")
        return self._files[path]


_hdf5_files = _Hdf5Files()


def split_name(name: str) -> tuple[str, str]:
    """Split the name of an array into (part, name): `x_test` is (test, x), `train/images` (train, images)."""
    words = re.split(r"[_./-]", name)
    parts = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
    parts |= {"validation": "validation", "test": "test"}
    for place in (0, -1):
        if len(words) > 1 and words[place].lower() in parts:
            rest = name[len(words[0]) + 1 :] if place == 0 else name[: -len(words[-1]) - 1]
            return parts[words[place].lower()], rest
    return "train", name
