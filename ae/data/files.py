"""Images in files, decoded one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from ae.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Files:
    """Image files as a data set: item i is (uint8 [c h w], label), decoded when it is asked for.

    mode   L: grey; RGB: colour
    shape  (height, width) of all; with `size`, the shorter side is resized to it and the middle cropped square
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    mode: str
    shape: tuple[int, int]
    size: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c h w"], int]:
        import numpy as np
        from PIL import Image, ImageOps

        path = self.paths[index]
        try:
            with Image.open(path) as file:
                image = file.convert(self.mode)
        except OSError as error:
            raise InputError(f"{path} is no image: {error}") from error
        if self.size is not None:
            image = ImageOps.fit(image, self.shape[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        return rearrange(pixels, "h w -> 1 h w" if self.mode == "L" else "h w c -> c h w"), self.labels[index]


def open_files(
    paths: Sequence[Path],
    labels: Sequence[int],
    size: int | None = None,
    mode: str | None = None,
    shape: tuple[int, int] | None = None,
) -> Files:
    """Look at the files' headers, and choose what is not given: grey where all are, and the one size that all have.

    Raises InputError for a file that is no image, has more than 8 bits, or without `size` another shape than the first.
    """
    found = [_header(path) for path in paths]
    mode = mode or ("L" if all(is_grey for is_grey, _ in found) else "RGB")
    if size is not None:
        return Files(paths, labels, mode, (size, size), size)
    shape = shape or found[0][1]
    for path, (_, own) in zip(paths, found, strict=True):
        if own != shape:
            sizes = f"{path} is {'x'.join(map(str, own))}, others {'x'.join(map(str, shape))}"
            raise InputError(f"{sizes}: give a size with --data.size")
    return Files(paths, labels, mode, shape)


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder, by name."""
    return sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and all folders below it, by name."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def _header(path: Path) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its (height, width); without decoding it."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise InputError(f"{path} has pixels of more than 8 bits (mode {file.mode}): convert it first")
            return file.mode in ("1", "L", "LA"), (file.height, file.width)
    except OSError as error:
        raise InputError(f"{path} is no image: {error}") from error
