"""Decoding of image files with Pillow: orientation, transparency, and checks that a file is whole."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from ae.utils.errors import InputError, one_line
from ae.utils.files import check_regular

if TYPE_CHECKING:
    from PIL import Image as Pillow

_UNSUPPORTED = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}  # decoded by another program, or not at all
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "GIF": b";"}  # the last bytes of a whole file
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Header:
    """Header of an image file: greyscale or not, (height, width) as displayed, and whether it has several frames."""

    is_grey: bool
    shape: tuple[int, int]
    is_animated: bool


def as_displayed(image: "Pillow.Image", mode: str | None = None) -> "Pillow.Image":
    """Apply the EXIF orientation, and compose transparent pixels onto white.

    `mode` is L (grey) or RGB; by default L if the image is grey. Raises InputError for more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    _check_depth(image)
    mode = mode or ("L" if _is_grey(image) else "RGB")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def as_pixels(image: "Pillow.Image") -> UInt8[Tensor, "c h w"]:
    """Convert an image of mode L or RGB to a tensor."""
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return rearrange(pixels, "h w -> 1 h w" if image.mode == "L" else "h w c -> c h w").contiguous()


def is_image(path: Path) -> bool:
    """Whether Pillow recognises the content of a file; false for unreadable files."""
    try:
        with opened_image(path):
            return True
    except InputError:
        return False


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow reads, in lower case, such as `.png`."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats())


def read_header(path: Path) -> Header:
    """Read the header of an image file, and check that the file is whole; raises InputError if it can't be used."""
    with opened_image(path) as file:
        _check_depth(file)
        is_turned = file.format != "TIFF" and file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # Pillow turns TIFF
        shape = (file.width, file.height) if is_turned else (file.height, file.width)
        header = Header(_is_grey(file), shape, getattr(file, "is_animated", False))
    with opened_image(path) as file:
        if file.format == "PNG":
            file.verify()  # the checksums of all chunks
        elif not _has_end_marker(path, file.format):
            file.load()
    return header


@contextmanager
def opened_image(path: Path) -> Iterator[Any]:
    """Open an image file; errors of the decoder become InputErrors that name the file."""
    from PIL import Image

    check_regular(path)
    file = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as file:
                yield file
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path} {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit against decompression bombs"
        raise InputError(f"{path} has more than {limit}: make it smaller") from error
    except PermissionError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and others
        if file is None:
            raise InputError(f"{path} is no image: {_description(path) or one_line(error)}") from error
        raise InputError(f"{path} is truncated or damaged: {one_line(error)}") from error


def describe_content(head: bytes) -> str:
    """Describe a file by its first bytes; empty if they are not recognised."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "the file is empty"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps that of a failed download"
    return ""


def _description(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return describe_content(file.read(512))
    except OSError:
        return ""


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _UNSUPPORTED)


def _has_end_marker(path: Path, format: str) -> bool:
    end = _END_MARKERS.get(format)
    if end is None:
        return False
    with open(path, "rb") as file:
        file.seek(-len(end), 2)
        return file.read() == end


def _is_grey(image: "Pillow.Image") -> bool:
    return image.mode in ("1", "L", "LA", "La")


def _check_depth(image: "Pillow.Image") -> None:
    if image.mode.startswith(("I", "F")):
        raise InputError(f"has pixels of more than 8 bits (mode {image.mode}): convert it first")
