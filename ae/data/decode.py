"""Decoding of image files with Pillow: orientation, transparency, and checks that a file is whole."""

import io
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


@dataclass(frozen=True)
class ImageForm:
    """Form to which the images of a data set are brought.

    mode            L (grey) or RGB
    shape           (height, width)
    resizes         scale each image to cover `shape`, and crop the centre; else images must have this shape
    white           value of white in images of more than 8 bits per channel, such as 65535; None: these are refused
    refuses_colour  raise InputError for a colour image in mode L, which would lose its colours
    """

    mode: str
    shape: tuple[int, int]
    resizes: bool = False
    white: int | None = None
    refuses_colour: bool = False

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return 1 if self.mode == "L" else 3, *self.shape

    def read(self, source: Path | bytes, name: str) -> UInt8[Tensor, "c h w"]:
        """Decode a file or its content; raises InputError, with `name`, if it is no image of this form."""
        from PIL import Image, ImageOps

        with opened_image(source, name) as file:
            if self.refuses_colour and self.mode == "L" and not is_grey(file):
                raise InputError(f"{name} has colours, others are grey: choose with Data.channels, 1 or 3")
            image = as_displayed(file, self.mode, self.white)
            if self.resizes:
                image = ImageOps.fit(image, self.shape[::-1], Image.Resampling.BILINEAR)
        if (image.height, image.width) != self.shape:
            raise InputError(f"{name} is {image.height}x{image.width}, others {'x'.join(map(str, self.shape))}")
        return as_pixels(image)


@dataclass(frozen=True)
class GivenForm:
    """Form of images as the user gives it; None is inferred from the images.

    size      (height, width), or one number for both: scale each image to cover it, and crop the centre
    channels  1 (grey) or 3 (colour); by default 1 if all images are grey
    white     as in `ImageForm`
    """

    size: int | tuple[int, int] | None = None
    channels: int | None = None
    white: int | None = None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def mode(self) -> str | None:
        """L (grey) or RGB."""
        return None if self.channels is None else "L" if self.channels == 1 else "RGB"


INFERRED = GivenForm()
"""The form of images of which nothing is given."""


def as_displayed(image: "Pillow.Image", mode: str | None = None, white: int | None = None) -> "Pillow.Image":
    """Apply the EXIF orientation, and compose transparent pixels onto white.

    `mode` is L (grey) or RGB; by default L if the image is grey. Images of more than 8 bits per channel are scaled by
    `white`, their value of white; raises InputError for these without it.
    """
    from PIL import Image, ImageOps

    _check_depth(image, white)
    mode = mode or ("L" if is_grey(image) else "RGB")
    image = ImageOps.exif_transpose(image)
    if white is not None and _is_deep(image):
        image = _scaled(image, white)
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


def read_header(path: Path, white: int | None = None) -> Header:
    """Read the header of an image file, and check that the file is whole; raises InputError if it can't be used.

    `white` is as in `ImageForm`.
    """
    with opened_image(path) as file:
        _check_depth(file, white)
        is_turned = file.format != "TIFF" and file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # Pillow turns TIFF
        shape = (file.width, file.height) if is_turned else (file.height, file.width)
        header = Header(is_grey(file), shape, getattr(file, "is_animated", False))
    with opened_image(path) as file:
        if file.format == "PNG":
            file.verify()  # the checksums of all chunks
        elif not _has_end_marker(path, file.format):
            file.load()
    return header


@contextmanager
def opened_image(source: Path | bytes, name: str | None = None) -> Iterator[Any]:
    """Open an image file, or the content of one; errors of the decoder become InputErrors that begin with its name.

    `name` is by default the file's path.
    """
    from PIL import Image

    name = name or str(source)
    if isinstance(source, Path):
        check_regular(source)
    file = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_formats()) as file:
                yield file
    except InputError as error:
        raise error if name in str(error) else InputError(f"{name} {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit against decompression bombs"
        raise InputError(f"{name} has more than {limit}: make it smaller") from error
    except PermissionError as error:
        raise InputError(f"can't read {name}: {error.strerror}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and others
        if file is None:
            raise InputError(f"{name} is no image: {_description(source) or _plain(error)}") from error
        raise InputError(f"{name} is truncated or damaged: {one_line(error)}") from error


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


def _description(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return describe_content(source[:512])
    try:
        with open(source, "rb") as file:
            return describe_content(file.read(512))
    except OSError:
        return ""


def _plain(error: Exception) -> str:
    """The message of a decoder, without the address of a file in memory."""
    return "its format is unknown" if "BytesIO" in str(error) else one_line(error)


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


def is_grey(image: "Pillow.Image") -> bool:
    """Whether an image has no colours."""
    return image.mode in ("1", "L", "LA", "La") or _is_deep(image)


def _is_deep(image: "Pillow.Image") -> bool:
    """Whether an image has more than 8 bits per channel, as integers or floats; Pillow has such images in grey only."""
    return image.mode.startswith(("I", "F"))


def _check_depth(image: "Pillow.Image", white: int | None) -> None:
    if white is None and _is_deep(image):
        hint = "convert it, or give its value of white with Data.white, such as 65535"
        raise InputError(f"has pixels of more than 8 bits (mode {image.mode}): {hint}")


def _scaled(image: "Pillow.Image", white: int) -> "Pillow.Image":
    """Scale an image of more than 8 bits per channel to 8 bits; values above `white` are white."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    return Image.fromarray(np.rint(values.clip(0, white) * 255 / white).astype(np.uint8))
