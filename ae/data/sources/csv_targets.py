"""Targets of image files from a CSV file."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from ae.data.decode import image_suffixes, opened_image
from ae.data.targets import Target
from ae.utils.errors import InputError
from ae.utils.files import read_text

LABEL_COLUMNS = ("label", "class")
FILE_COLUMNS = ("file", "filename", "file_name", "image", "path")


def read_targets(path: Path, files: Sequence[Path], root: Path, size: tuple[int, int] | None) -> dict[str, Target]:
    """Read the targets of image files from a CSV file with a header.

    One column (`file`, `filename`, `file_name`, `image` or `path`) names the files: relative to `root` or to the CSV
    file's folder, or by name alone if that is unique. Every other column is a target, typed by its cells:

    - numbers, of which at least one has a decimal point or exponent: floats
    - names of image files: classes of pixels, the distinct values of these files, resized to `size` as the images are,
      by the nearest pixel; without a `size` (height, width), such a column is an error
    - anything else, whole numbers too: classes, sorted

    An empty cell is a missing value, and so is every value of a file without a row. Raises InputError for a row that
    names no file, or the same file as another row.
    """
    rows = _rows(path)
    column = next((name for name in FILE_COLUMNS if name in rows), None)
    if column is None:
        raise InputError(f"{path} must have a column {' or '.join(FILE_COLUMNS)}, got {', '.join(rows)}")
    table = _Table(path, root, _places(path, rows.pop(column), files, root), len(files), size)
    return {name: table.target(name, cells) for name, cells in rows.items()}


@dataclass(frozen=True)
class _Table:
    """A CSV file: the number of the image of each row, and the number of all images."""

    path: Path
    root: Path
    places: Sequence[int]
    count: int
    size: tuple[int, int] | None

    def target(self, name: str, cells: Sequence[str]) -> Target:
        """Make the target of a column, typed by its cells."""
        given = [cell for cell in cells if cell]
        if given and all(Path(cell).suffix.lower() in image_suffixes() for cell in given):
            return self._maps(name, cells)
        index = torch.tensor(self.places)
        is_whole = all(cell.lstrip("+-").isdigit() for cell in given)
        if given and not is_whole and all(_number(cell) is not None for cell in given):
            values = torch.full((self.count,), math.nan)
            values[index] = torch.tensor([float(cell) if cell else math.nan for cell in cells])
            return Target(values)
        classes = sorted(set(given), key=lambda cell: (not cell.isdigit(), int(cell) if cell.isdigit() else 0, cell))
        numbers = {cell: i for i, cell in enumerate(classes)}
        labels = torch.full((self.count,), -1)
        labels[index] = torch.tensor([numbers.get(cell, -1) for cell in cells])
        return Target(labels, tuple(classes))

    def _maps(self, name: str, cells: Sequence[str]) -> Target:
        """Read the classes of pixels from image files."""
        if self.size is None:
            reason = "which can't be streamed: leave out Data.stream"
            raise InputError(f"the column {name} of {self.path} names images, {reason}")
        pixels: dict[int, np.ndarray] = {}
        for place, cell in zip(self.places, cells, strict=True):
            if cell:
                existing = [Path(each) for each in _candidates(cell, self.path, self.root) if Path(each).exists()]
                pixels[place] = _read_map(existing[0] if existing else self.path.parent / cell, self.size)
        values = np.unique(np.concatenate([np.unique(each) for each in pixels.values()]))
        classes = np.full((self.count, *self.size), -1, dtype=np.int16)
        for place, each in pixels.items():
            classes[place] = np.searchsorted(values, each)
        return Target(torch.from_numpy(classes), tuple(str(value) for value in values))


def _rows(path: Path) -> dict[str, list[str]]:
    """Read the cells of each column, by its name."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff")), strict=True))
    except csv.Error as error:
        raise InputError(f"can't read {path}: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if any(cell.strip() for cell in line)]
    if len(numbered) < 2:
        raise InputError(f"{path} must have a header, and a row for each image")
    header = [name.strip() for name in numbered[0][1]]
    if len(set(header)) < len(header) or "" in header:
        raise InputError(f"the columns of {path} must have different names, got {', '.join(header)}")
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise InputError(f"{path}, line {number} has {len(line)} cells, the header has {len(header)}")
    return {name: [line[i].strip() for _, line in numbered[1:]] for i, name in enumerate(header)}


def _places(path: Path, names: Sequence[str], files: Sequence[Path], root: Path) -> list[int]:
    """Find the index in `files` of the file that each row names."""
    known = {str(file.absolute()): i for i, file in enumerate(files)}
    by_name: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        by_name.setdefault(file.name, []).append(i)
    places: list[int] = []
    seen: dict[int, int] = {}
    for number, name in enumerate(names, 1):
        found = [known[place] for place in _candidates(name, path, root) if place in known] or by_name.get(name, [])
        if len(set(found)) != 1:
            why = f"no image {name!r} in {root}"
            if found:
                why = f"{len(found)} images are named {name!r}: give their folders, too"
            raise InputError(f"{path}, row {number}: {why}")
        if found[0] in seen:
            raise InputError(f"{path}: rows {seen[found[0]]} and {number} name the same image, {name!r}")
        seen[found[0]] = number
        places.append(found[0])
    return places


def _candidates(name: str, path: Path, root: Path) -> list[str]:
    return [str((base / name).absolute()) for base in (root, path.parent)]


def _read_map(path: Path, size: tuple[int, int]) -> "UInt8[np.ndarray, 'h w']":
    """Read an image of one channel, or the indices of a palette, resized and cropped to (height, width)."""
    from PIL import Image, ImageOps

    with opened_image(path) as file:
        if file.mode not in ("1", "L", "P"):
            raise InputError(f"{path} must have one channel or a palette of classes, got {file.mode}")
        image = file.convert("L") if file.mode == "1" else file
        image = ImageOps.fit(image, size[::-1], Image.Resampling.NEAREST)
        return np.array(image)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def split_labels(targets: Mapping[str, Target]) -> tuple[Target | None, dict[str, Target]]:
    """Return the target of the column `label` or `class`, if it holds classes, and the other targets."""
    name = next((name for name in LABEL_COLUMNS if name in targets), None)
    if name is None:
        return None, dict(targets)
    labels = targets[name]
    if labels.values.is_floating_point() or labels.values.ndim != 1:
        raise InputError(f"the column {name} must hold the class of each image; name another target differently")
    return labels, {key: target for key, target in targets.items() if key != name}
