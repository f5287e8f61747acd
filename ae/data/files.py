"""Images in files, decoded one at a time, as a viewer shows them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.files import check_regular

if TYPE_CHECKING:
    from PIL import Image as Pillow

_INTERPRETED = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}  # decoded by running another program, or not at all
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "GIF": b";"}  # a file that ends so is whole
_ORIENTATION = 0x0112  # of EXIF
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Header:
    """Whether an image is grey, its (height, width) as shown, and whether it has several frames."""

    is_grey: bool
    shape: tuple[int, int]
    is_animated: bool


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
        from PIL import Image, ImageOps

        path = self.paths[index]
        with _opened(path) as file:
            image = as_shown(file, self.mode)
            if self.size is not None:
                image = ImageOps.fit(image, self.shape[::-1], Image.Resampling.BILINEAR)
        if (image.height, image.width) != self.shape:
            raise InputError(f"{path} is {image.height}x{image.width}, others {'x'.join(map(str, self.shape))}")
        return as_pixels(image), self.labels[index]


def as_shown(image: "Pillow.Image", mode: str | None = None) -> "Pillow.Image":
    """An image as a viewer shows it: turned as its EXIF orientation says, and opaque, on white where it is transparent.

    `mode`: L (grey) or RGB; without, L where the image is grey. Raises InputError for more than 8 bits a channel.
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
    """The pixels of an image of mode L or RGB."""
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return rearrange(pixels, "h w -> 1 h w" if image.mode == "L" else "h w c -> c h w").contiguous()


def open_files(
    paths: Sequence[Path],
    labels: Sequence[int],
    size: int | None = None,
    mode: str | None = None,
    shape: tuple[int, int] | None = None,
    skip_broken: bool = False,
) -> Files:
    """Look at all files, and choose what is not given: grey where all are, and the one size that all have.

    Headers are read, and of files that may be truncated the content. Raises InputError that lists the files which are
    no image, truncated or of more than 8 bits, or without `size` of another shape than the first. With `skip_broken`,
    these are left out, and named in a line on stderr.
    """
    headers: dict[int, Header] = {}
    broken: list[str] = []
    for i, path in enumerate(paths):
        try:
            headers[i] = _looked_at(path)
        except InputError as error:
            broken.append(str(error))
    _refuse(broken, len(paths), skip_broken)
    animated = [str(paths[i]) for i, header in headers.items() if header.is_animated]
    if animated:
        note(f"{counted(len(animated), 'file')} with several frames, of which the first is read: {some(animated)}")
    mode = mode or ("L" if all(header.is_grey for header in headers.values()) else "RGB")
    if size is not None:
        shape = (size, size)
    else:
        shape = shape or next(iter(headers.values())).shape
        odd = {i: header.shape for i, header in headers.items() if header.shape != shape}
        if odd:
            listed = some([f"{paths[i]} is {own[0]}x{own[1]}" for i, own in odd.items()])
            raise InputError(f"{listed}, others {'x'.join(map(str, shape))}: give a size with Data.size")
    return Files([paths[i] for i in headers], [labels[i] for i in headers], mode, shape, size)


def decoded(files: Files, skip_broken: bool = False) -> tuple[UInt8[Tensor, "n c h w"], list[int]]:
    """All images and their labels; raises InputError that lists the files which can't be decoded, or skips them."""
    images, labels, broken = [], [], []
    for i in range(len(files)):
        try:
            image, label = files[i]
        except InputError as error:
            broken.append(str(error))
            continue
        images.append(image)
        labels.append(label)
    _refuse(broken, len(files), skip_broken)
    return torch.stack(images), labels


def is_image(path: Path) -> bool:
    """Whether Pillow knows the content of a file as an image; false of what can't be read."""
    try:
        with _opened(path):
            return True
    except InputError:
        return False


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the formats that Pillow reads, in lower case, as `.png`."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats())


def note(message: str) -> None:
    """Tell the user in one line on stderr."""
    say(f"note: {message}", error=True)


def some(names: Sequence[str]) -> str:
    """The first names of many, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def counted(count: int, noun: str) -> str:
    """A number with its noun, as `1 file` and `2 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def _refuse(broken: list[str], count: int, skip_broken: bool) -> None:
    """Raise InputError for files that can't be used; with `skip_broken`, say which are left out."""
    if not broken:
        return
    if skip_broken and len(broken) < count:
        note(f"{counted(len(broken), 'file')} of {count:,} left out: {some(broken)}")
    elif len(broken) == 1:
        raise InputError(f"{broken[0]}; Data.skip_broken leaves such files out")
    else:
        cure = "none is left" if skip_broken else "Data.skip_broken leaves them out"
        raise InputError(f"{len(broken):,} of {count:,} files can't be used: {some(broken)}; {cure}")


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _INTERPRETED)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The image in a file, open; whatever a decoder raises of it becomes an InputError that names the file."""
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
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise InputError(
            f"{path} has more than {limit}, which Pillow holds to be an attack: make it smaller"
        ) from error
    except PermissionError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and others
        if file is None:
            raise InputError(f"{path} is no image: {_content(path) or one_line(error)}") from error
        raise InputError(f"{path} is truncated or damaged: {one_line(error)}") from error


def _content(path: Path) -> str:
    """Describe a file that is no image by its first bytes; empty where these do not tell."""
    try:
        with open(path, "rb") as file:
            return described(file.read(512))
    except OSError:
        return ""


def described(head: bytes) -> str:
    """Describe a file by its first bytes; empty where these do not tell."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "the file is empty"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps that of a failed download"
    return ""


def _looked_at(path: Path) -> Header:
    """A file's header; raises InputError where it is no image that can be used, or truncated."""
    with _opened(path) as file:
        _check_depth(file)
        turned = file.format != "TIFF" and file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # Pillow turns TIFF itself
        shape = (file.width, file.height) if turned else (file.height, file.width)
        header = Header(_is_grey(file), shape, getattr(file, "is_animated", False))
    with _opened(path) as file:
        if file.format == "PNG":
            file.verify()  # the checksums of all chunks
        elif not _ends_whole(path, file.format):
            file.load()
    return header


def _ends_whole(path: Path, format: str) -> bool:
    end = _ENDS.get(format)
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
