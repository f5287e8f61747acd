"""Image files as a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ae.data.decode import INFERRED, GivenForm, Header, ImageForm, read_header
from ae.utils.console import say
from ae.utils.errors import InputError

_LISTED = 5  # names in a message


@dataclass(frozen=True)
class Files:
    """Image files as a data set: item i is (uint8 [c h w], label), decoded on access."""

    paths: Sequence[Path]
    labels: Sequence[int]
    form: ImageForm

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c h w"], int]:
        path = self.paths[index]
        return self.form.read(path, str(path)), self.labels[index]


def open_files(
    paths: Sequence[Path],
    labels: Sequence[int],
    given: GivenForm = INFERRED,
    like: ImageForm | None = None,
    skip_broken: bool = False,
) -> Files:
    """Check all files, and infer what is not given of their form: grey if all are grey, the shape of the first file.

    Headers are read, and contents where a header can't tell that a file is whole. Raises InputError that lists the
    files that are not images, truncated, of more than 8 bits without a value of white, of another shape without a size,
    or in colour where the images that they must be `like` are grey. With `skip_broken`, unreadable files are left out
    and listed on stderr.
    """
    headers: dict[int, Header] = {}
    broken: list[str] = []
    for i, path in enumerate(paths):
        try:
            headers[i] = read_header(path, given.white)
        except InputError as error:
            broken.append(str(error))
    _report_broken(broken, len(paths), skip_broken)
    animated = [str(paths[i]) for i, header in headers.items() if header.is_animated]
    if animated:
        note(f"{counted(len(animated), 'file')} with several frames, of which the first is read: {some(animated)}")
    coloured = [str(paths[i]) for i, header in headers.items() if not header.is_grey]
    if coloured and given.mode is None and like is not None and like.mode == "L":
        raise InputError(f"{some(coloured)} in colour, others are grey: choose with Data.channels, 1 or 3")
    mode = given.mode or (like.mode if like is not None else "RGB" if coloured else "L")
    shape = given.shape or (like.shape if like is not None else next(iter(headers.values())).shape)
    mismatched = {i: header.shape for i, header in headers.items() if header.shape != shape}
    if given.shape is None and mismatched:
        listed = some([f"{paths[i]} is {height}x{width}" for i, (height, width) in mismatched.items()])
        raise InputError(f"{listed}, others {'x'.join(map(str, shape))}: give a size with Data.size")
    form = ImageForm(mode, shape, given.shape is not None, given.white)
    return Files([paths[i] for i in headers], [labels[i] for i in headers], form)


def decoded(files: Files, skip_broken: bool = False) -> tuple[UInt8[Tensor, "n c h w"], list[int]]:
    """Decode all images, and give their labels; raises InputError that lists broken files, or skips these."""
    images, labels, broken = [], [], []
    for i in range(len(files)):
        try:
            image, label = files[i]
        except InputError as error:
            broken.append(str(error))
            continue
        images.append(image)
        labels.append(label)
    _report_broken(broken, len(files), skip_broken)
    return torch.stack(images), labels


def note(message: str) -> None:
    """Print a note on stderr."""
    say(f"note: {message}", error=True)


def some(names: Sequence[str]) -> str:
    """List the first names, and count the rest."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: `1 file`, `2 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def _report_broken(broken: list[str], count: int, skip_broken: bool) -> None:
    """Raise InputError for broken files; with `skip_broken`, list them on stderr, unless no file is left."""
    if not broken:
        return
    if skip_broken and len(broken) < count:
        note(f"{counted(len(broken), 'file')} of {count:,} left out: {some(broken)}")
    elif len(broken) == 1:
        raise InputError(f"{broken[0]}; Data.skip_broken leaves such files out")
    else:
        hint = "none is left" if skip_broken else "Data.skip_broken leaves them out"
        raise InputError(f"{len(broken):,} of {count:,} files can't be used: {some(broken)}; {hint}")
