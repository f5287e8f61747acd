"""Which image files a folder holds, and of which class and part each is."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ae.data.files import counted, image_suffixes, is_image, note, some
from ae.utils.errors import InputError

_SYSTEM = {
    "__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
_PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
Labelled = list[tuple[Path, int]]


@dataclass(frozen=True)
class Scanned:
    """Image files with their labels, by part; None for a part that has no folder of its own."""

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled | None
    test: Labelled | None


def scan(root: Path) -> Scanned:
    """The images in `root/CLASS`, or in `root/train/CLASS` and `root/test/CLASS`, `root/val/CLASS`; nested ones, too.

    Hidden files and folders, and those of systems (`.ipynb_checkpoints`, `@eaDir`, `__MACOSX`, `Thumbs.db`), are
    ignored. Content decides what is an image; all else that is left out is counted and named in a line on stderr.
    Raises InputError where a folder can't be read, or holds no images in folders of classes.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: Data.root takes a folder with a folder of images for each class")
    parts, beside = _parts(root)
    by_class = {part: _classes(folder) for part, folder in parts.items()}
    found = {part: {name: files for name, files in folders.items() if files} for part, folders in by_class.items()}
    classes = tuple(sorted({name for folders in found.values() for name in folders}))
    if not found["train"]:
        wanted = f"expected {parts['train']}/CLASS/*.png, or another format that Pillow reads"
        raise InputError(f"no images in {parts['train']}: {wanted}{_flat(parts['train'])}")
    if beside:
        note(f"{counted(len(beside), 'folder')} beside train/ in {root} left out: {some(beside)}")
    for part, folders in found.items():
        empty = sorted(by_class[part].keys() - folders.keys())
        if empty:
            note(f"{counted(len(empty), 'folder')} without images in {parts[part]}: {some(empty)}")
        missing = sorted(set(classes) - folders.keys() - set(empty))
        if missing:
            note(f"{counted(len(missing), 'class')} without images in {parts[part]}: {some(missing)}")

    def labelled(part: str) -> Labelled | None:
        if part not in found:
            return None
        files = [(path, label) for label, name in enumerate(classes) for path in found[part].get(name, [])]
        if not files:
            raise InputError(f"no images for the {part}: {parts[part]} has none in folders of classes")
        return files

    return Scanned(classes, labelled("train") or [], labelled("validation"), labelled("test"))


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and all folders below it, by name; says what it leaves out."""
    images, others = _split(_files_below(folder))
    _say_others(others, folder)
    return images


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by a system for itself."""
    return name.startswith((".", "@", "#recycle")) or name.lower() in _SYSTEM


def _parts(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each part (`root` is the training's where it has no parts), and the folders beside these."""
    folders = _subfolders(root)
    found: dict[str, Path] = {}
    for part, names in _PARTS.items():
        matching = [folder for folder in folders if folder.name.lower() in names]
        if len(matching) > 1:
            raise InputError(f"{root} has more than one folder of {part} images: {some([f.name for f in matching])}")
        if matching:
            found[part] = matching[0]
    beside = [folder.name for folder in folders if folder not in found.values()]
    if "train" in found and (len(found) > 1 or not beside):
        return found, beside
    if found and "train" not in found and not beside:
        raise InputError(f"{root} has {some([f.name for f in found.values()])} and no folder train")
    for folder in folders:
        inner = {below.name.lower() for below in _subfolders(folder)}
        if "train" in inner and inner & {*_PARTS["validation"], *_PARTS["test"]}:
            raise InputError(f"{folder} has folders of parts, as train: give it as Data.root")
    return {"train": root}, []


def _classes(part: Path) -> dict[str, list[Path]]:
    """The image files of each folder in `part`; says what is left out, and which are nested."""
    found: dict[str, list[Path]] = {}
    others = [path for path in _entries(part) if not path.is_dir()]
    nested: list[str] = []
    for folder in _subfolders(part):
        found[folder.name], left = _split(_files_below(folder))
        others += left
        nested += sorted({str(path.parent.relative_to(part)) for path in found[folder.name] if path.parent != folder})
    if nested:
        note(f"{counted(len(nested), 'nested folder')} in {part}, read as of the class above: {some(nested)}")
    if any(found.values()):
        _say_others(others, part)
    return found


def _say_others(others: list[Path], folder: Path) -> None:
    if others:
        names = [str(path.relative_to(folder)) for path in others]
        note(f"{counted(len(others), 'file')} in {folder} left out, no image of a class: {some(names)}")


def _flat(folder: Path) -> str:
    """The end of a message, where a folder has images and no folders."""
    images, _ = _split(path for path in _entries(folder) if not path.is_dir())
    return f" ({counted(len(images), 'image')} there are in no folder of a class)" if images else ""


def _split(paths: "Iterator[Path] | list[Path]") -> tuple[list[Path], list[Path]]:
    """Images, by name or by content, and other files. A file with the suffix of an image that is none is kept."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(paths):
        (images if path.suffix.lower() in image_suffixes() or is_image(path) else others).append(path)
    return images, others


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        return  # a link back to a folder above
    for path in _entries(folder):
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not is_ignored(entry.name))
    except OSError as error:
        raise InputError(f"can't read {folder}: {error.strerror}") from error
