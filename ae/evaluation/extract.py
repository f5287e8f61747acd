"""Codes, predictions and reconstructions of a whole data set, written to files batch by batch."""

import json
import struct
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from ae.data import Batch, ImageSet
from ae.evaluation.inference import encode_batches
from ae.functional import LABEL
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.files import write_whole
from ae.utils.validation import Positive, checked_arguments

Part = Literal["codes", "predictions", "labels", "reconstructions"]
Format = Literal["npy", "safetensors"]
_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}  # names in safetensors


@checked_arguments
def encode(
    model: Autoencoder,
    images: ImageSet,
    folder: Path,
    parts: Sequence[Part] = ("codes", "predictions", "labels", "reconstructions"),
    format: Format = "safetensors",
    batch_size: Positive[int] = 256,
) -> list[Path]:
    """Write `parts` of all images, in order, to `encoded.safetensors` or to `NAME.npy` in a folder; returns the files.

    codes            [n ...] the mean of the code
    predictions      [n ...] of each head, such as logits [n classes], as `predictions.HEAD`
    labels           [n] -1 = unlabelled; and of other targets, if there are any, `targets.NAME` [n ...]
    reconstructions  [n c h w] in [0, 1]

    Memory holds one batch at a time. Complete files are renamed into place. With several processes, each writes a
    shard, of consecutive images, to `encoded-00000-of-00002.safetensors` or `NAME-00000-of-00002.npy`, and the main
    process `index.json`: {"images": n, "shards": [{"first": 0, "images": m, "files": [...]}, ...]}. Raises InputError
    for reconstructions of a model without a decoder.
    """
    if "reconstructions" in parts and model.decoder is None:
        raise InputError("no reconstructions: the model has no decoder; leave them out of the parts")
    folder.mkdir(parents=True, exist_ok=True)
    rank, world_size = distributed.rank(), distributed.world_size()
    if world_size == 1:
        return _encode(model, images, folder, parts, format, batch_size, "")
    sizes = [len(part) for part in torch.arange(len(images)).tensor_split(world_size)]
    bounds = [sum(sizes[:i]) for i in range(world_size + 1)]
    files = []
    if sizes[rank]:
        shard = images.select(slice(bounds[rank], bounds[rank + 1]))
        files = _encode(model, shard, folder, parts, format, batch_size, f"-{rank:05}-of-{world_size:05}")
    every = distributed.all_gather([file.name for file in files])
    if not distributed.is_main():
        return files
    shards = [{"first": bounds[i], "images": sizes[i], "files": each} for i, each in enumerate(every)]
    write_whole(folder / "index.json", json.dumps({"images": len(images), "shards": shards}, indent=2).encode())
    return [*(folder / name for each in every for name in each), folder / "index.json"]


def _encode(
    model: Autoencoder,
    images: ImageSet,
    folder: Path,
    parts: Sequence[Part],
    format: Format,
    batch_size: int,
    suffix: str,
) -> list[Path]:
    """Write the parts of images to files whose names end with `suffix`."""
    arrays: dict[str, np.ndarray] = {}
    files: list[Path] = []
    done = 0
    batches = encode_batches(model, images, partial(_read, model, parts), batch_size)
    for values in tqdm(batches, total=-(-len(images) // batch_size), unit="batch", disable=not distributed.is_main()):
        if not arrays:
            shapes = {name: (len(images), *value.shape[1:]) for name, value in values.items()}
            dtypes = {name: value.dtype for name, value in values.items()}
            arrays, files = _allocate(folder, shapes, dtypes, format, suffix)
        for name, value in values.items():
            arrays[name][done : done + len(value)] = value
        done += len(next(iter(values.values())))
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    return [path.rename(path.with_name(path.name.removeprefix("."))) for path in files]


def _read(model: Autoencoder, parts: Sequence[Part], batch: Batch, code: Code) -> dict[str, np.ndarray]:
    """Compute the parts of one batch, on the CPU."""
    values = {}
    if "codes" in parts:
        values["codes"] = code.mean
    if "predictions" in parts:
        values |= {f"predictions.{head}": output for head, output in model.predict(code).items()}
    if "labels" in parts:
        values["labels"] = batch.labels
        values |= {f"targets.{name}": target for name, target in batch.targets.items() if name != LABEL}
    if "reconstructions" in parts:
        values["reconstructions"] = model.decode(code.z, batch.images.shape[-2:])
    return {name: value.contiguous().cpu().numpy() for name, value in values.items()}


def _allocate(
    folder: Path, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype], format: Format, suffix: str
) -> tuple[dict[str, np.ndarray], list[Path]]:
    """Allocate memory-mapped arrays; returns them and their files, whose temporary names begin with a dot."""
    if format == "npy":
        paths = {name: folder / f".{name}{suffix}.npy" for name in shapes}
        arrays = {
            name: np.lib.format.open_memmap(path, mode="w+", dtype=dtypes[name], shape=shapes[name])
            for name, path in paths.items()
        }
        return dict(arrays), list(paths.values())
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, shape in sorted(shapes.items(), key=lambda item: (-dtypes[item[0]].itemsize, item[0])):  # aligned
        begin, end = end, end + prod(shape) * dtypes[name].itemsize
        header[name] = {"dtype": _DTYPES[dtypes[name]], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / f".encoded{suffix}.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    mapped: dict[str, np.ndarray] = {
        name: np.memmap(path, dtypes[name], "r+", 8 + len(text) + entry["data_offsets"][0], entry["shape"])
        for name, entry in header.items()
    }
    return mapped, [path]
