"""Targets of image files from a CSV file."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from ae.data.decode import image_suffixes, opened_image, read_header
from ae.data.targets import Target
from ae.utils.errors import InputError
from ae.utils.files import read_text

LABEL_COLUMNS = ("label", "class")
_MISSING = ("nan", "na", "n/a", "null")  # of numbers
FILE_COLUMNS = ("file", "filename", "file_name", "image", "path")


def read_targets(path: Path, files: Sequence[Path], root: Path, size: tuple[int, int] | None) -> dict[str, Target]:
    """Read the targets of image files from a CSV file with a header.

    One column (`file`, `filename`, `file_name`, `image` or `path`) names the files: relative to `root` or to the CSV
    file's folder, or by name alone if that is unique. Every other column is a target, typed by its cells:

    - numbers, of which at least one has a decimal point or exponent: floats; `nan`, `na`, `n/a` and `null` are missing
    - names of image files: classes of pixels, the distinct values of these files. A map has its image's size, or its
      aspect ratio: it is resized and cropped to `size` (height, width) as the image is, by the nearest pixel. Without a
      `size`, such a column is an error
    - anything else, whole numbers too: classes, sorted

    An empty cell is a missing value, and so is every value of a file without a row. Raises InputError for a row that
    names no file, or the same file as another row, and for a column without values, or of numbers and other text.
    """
    rows = _rows(path)
    column = next((name for name in FILE_COLUMNS if name in rows), None)
    if column is None:
        raise InputError(f"{path} must have a column {' or '.join(FILE_COLUMNS)}, got {', '.join(rows)}")
    table = _Table(path, root, _places(path, rows.pop(column), files, root), files, size)
    return {name: table.target(name, cells) for name, cells in rows.items()}


@dataclass(frozen=True)
class _Table:
    """A CSV file: the number of the image of each row, and all images."""

    path: Path
    root: Path
    places: Sequence[int]
    files: Sequence[Path]
    size: tuple[int, int] | None

    def target(self, name: str, cells: Sequence[str]) -> Target:
        """Make the target of a column, typed by its cells."""
        given = [cell for cell in cells if cell]
        if not given:
            raise InputError(f"the column {name} of {self.path} has no value: leave it out")
        if _is_map(given):
            return self._maps(name, cells)
        index, count = torch.tensor(self.places), len(self.files)
        if _is_of_floats([cell for cell in given if cell.lower() not in _MISSING]):
            values = torch.full((count,), math.nan)
            numbers = [_float(self.path, name, cell) for cell in cells]
            values[index] = torch.tensor(numbers)
            return Target(values)
        is_whole = [re.fullmatch(r"[+-]?[0-9]+", cell) is not None for cell in given]
        key = {cell: (not whole, int(cell) if whole else 0, cell) for cell, whole in zip(given, is_whole, strict=True)}
        classes = sorted(key, key=lambda cell: key[cell])
        number = {cell: i for i, cell in enumerate(classes)}
        labels = torch.full((count,), -1)
        labels[index] = torch.tensor([number.get(cell, -1) for cell in cells])
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
                file = existing[0] if existing else self.path.parent / cell
                pixels[place] = _read_map(file, self.files[place], self.size)
        values = np.unique(np.concatenate([np.unique(each) for each in pixels.values()]))
        classes = np.full((len(self.files), *self.size), -1, dtype=np.int16)
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
        candidates = _candidates(name, path, root)
        found = [known[place] for place in candidates if place in known]
        if not found and not any(Path(place).exists() for place in candidates):
            found = by_name.get(name, [])
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


def map_files(path: Path, root: Path) -> set[str]:
    """The absolute paths of the files that the columns of maps in a CSV file name, which are no images to train on."""
    rows = {name: [cell for cell in cells if cell] for name, cells in _rows(path).items() if name not in FILE_COLUMNS}
    cells = [cell for column in rows.values() if _is_map(column) for cell in column]
    return {place for cell in cells for place in _candidates(cell, path, root)}


def _read_map(path: Path, image: Path, size: tuple[int, int]) -> "UInt8[np.ndarray, 'h w']":
    """Read the map of an image: one channel, or the indices of a palette, resized and cropped to (height, width)."""
    from PIL import Image, ImageOps

    with opened_image(path) as file:
        if file.mode not in ("1", "L", "P"):
            raise InputError(f"{path} must have one channel or a palette of classes, got {file.mode}")
        classes = ImageOps.exif_transpose(file.convert("L") if file.mode == "1" else file)
        height, width = read_header(image).shape
        if abs(classes.height * width - classes.width * height) > max(height, width, classes.height, classes.width):
            got = f"{classes.height}x{classes.width}, of an image of {height}x{width}"
            raise InputError(f"{path} must have its image's aspect ratio, got {got}")
        return np.array(ImageOps.fit(classes, size[::-1], Image.Resampling.NEAREST))


def _is_map(cells: Sequence[str]) -> bool:
    return bool(cells) and all(Path(cell).suffix.lower() in image_suffixes() for cell in cells)


def _is_of_floats(cells: Sequence[str]) -> bool:
    """Whether a number among the cells has a decimal point or an exponent."""
    return any(re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9.]+[eE][+-]?[0-9]+)", cell) for cell in cells)


def _float(path: Path, column: str, cell: str) -> float:
    if not cell or cell.lower() in _MISSING:
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"the column {column} of {path} holds numbers, and a cell that is none, {cell!r:.40}")
    return number


def split_labels(targets: Mapping[str, Target]) -> tuple[Target | None, dict[str, Target]]:
    """Return the target of the column `label` or `class`, if it holds classes, and the other targets."""
    name = next((name for name in LABEL_COLUMNS if name in targets), None)
    if name is None:
        return None, dict(targets)
    labels = targets[name]
    if labels.values.is_floating_point() or labels.values.ndim != 1:
        raise InputError(f"the column {name} must hold the class of each image; name another target differently")
    return labels, {key: target for key, target in targets.items() if key != name}
