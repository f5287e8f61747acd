"""Search for image files in folders of classes and parts."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ae.data.decode import image_suffixes, is_image
from ae.data.files import counted, note, some
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
    """Image files with labels, by part; None for a part without a folder."""

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled | None
    test: Labelled | None


def scan(root: Path, needs_classes: bool = True, left_out: Collection[str] = ()) -> Scanned:
    """Find the images in `root/CLASS`, or in `root/train/CLASS`, `root/val/CLASS` and `root/test/CLASS`, recursively.

    Hidden files and system files (`.ipynb_checkpoints`, `@eaDir`, `__MACOSX`, `Thumbs.db`) are ignored. Other files
    that are not images, by suffix or content, are listed on stderr. Raises InputError if a folder can't be read, or
    has no images in folders of classes. Without `needs_classes`, images that are in no such folder are
    read with the label -1, if none is. The files `left_out`, by their absolute paths, are no images of a class.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: Data.root takes a folder with a folder of images for each class")
    parts, unused = _parts(root)

    def kept(files: list[Path]) -> list[Path]:
        return [path for path in files if str(path.absolute()) not in left_out]

    if not needs_classes and not any(
        kept(files) for folder in parts.values() for files in _classes(folder, False).values()
    ):
        flat = {part: [(path, -1) for path in kept(images_below(folder, False))] for part, folder in parts.items()}
        if not flat["train"]:
            raise InputError(f"no images in {parts['train']}")
        return Scanned((), flat["train"], flat.get("validation"), flat.get("test"))
    by_class = {
        part: {name: kept(files) for name, files in _classes(folder).items() if kept(files) or not files}
        for part, folder in parts.items()
    }
    images = {part: {name: files for name, files in folders.items() if files} for part, folders in by_class.items()}
    classes = tuple(sorted({name for folders in images.values() for name in folders}))
    if not images["train"]:
        expected = f"expected {parts['train']}/CLASS/*.png, or another format that Pillow reads"
        raise InputError(f"no images in {parts['train']}: {expected}{_unsorted_images(parts['train'])}")
    if unused:
        note(f"{counted(len(unused), 'folder')} beside train/ in {root} left out: {some(unused)}")
    for part, folders in images.items():
        empty = sorted(by_class[part].keys() - folders.keys())
        if empty:
            note(f"{counted(len(empty), 'folder')} without images in {parts[part]}: {some(empty)}")
        missing = sorted(set(classes) - folders.keys() - set(empty))
        if missing:
            note(f"{counted(len(missing), 'class')} without images in {parts[part]}: {some(missing)}")

    def labelled(part: str) -> Labelled | None:
        if part not in images:
            return None
        files = [(path, label) for label, name in enumerate(classes) for path in images[part].get(name, [])]
        if not files:
            raise InputError(f"no images for the {part}: {parts[part]} has none in folders of classes")
        return files

    return Scanned(classes, labelled("train") or [], labelled("validation"), labelled("test"))


def images_below(folder: Path, notes: bool = True) -> list[Path]:
    """Find the image files below a folder, sorted by name; with `notes`, other files are listed on stderr."""
    images, others = _partition(_files_below(folder))
    if notes:
        _note_others(others, folder)
    return images


def is_ignored(name: str) -> bool:
    """Whether a name is that of a hidden or system file or folder."""
    return name.startswith((".", "@", "#recycle")) or name.lower() in _SYSTEM


def _parts(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the folder of each part (`root` is `train` if there are no parts), and the names of other folders."""
    folders = _subfolders(root)
    parts: dict[str, Path] = {}
    for part, names in _PARTS.items():
        matching = [folder for folder in folders if folder.name.lower() in names]
        if len(matching) > 1:
            raise InputError(f"{root} has more than one folder of {part} images: {some([f.name for f in matching])}")
        if matching:
            parts[part] = matching[0]
    unused = [folder.name for folder in folders if folder not in parts.values()]
    if "train" in parts and (len(parts) > 1 or not unused):
        return parts, unused
    if parts and "train" not in parts and not unused:
        raise InputError(f"{root} has {some([f.name for f in parts.values()])} and no folder train")
    for folder in folders:
        names_below = {below.name.lower() for below in _subfolders(folder)}
        if "train" in names_below and names_below & {*_PARTS["validation"], *_PARTS["test"]}:
            raise InputError(f"{folder} has folders of parts, as train: give it as Data.root")
    return {"train": root}, []


def _classes(part: Path, notes: bool = True) -> dict[str, list[Path]]:
    """Find the image files of each class folder in `part`; `notes` lists nested folders and other files on stderr."""
    images: dict[str, list[Path]] = {}
    others = [path for path in _entries(part) if not path.is_dir()]
    nested: list[str] = []
    for folder in _subfolders(part):
        images[folder.name], others_below = _partition(_files_below(folder))
        others += others_below
        nested += sorted({str(path.parent.relative_to(part)) for path in images[folder.name] if path.parent != folder})
    if nested and notes:
        note(f"{counted(len(nested), 'nested folder')} in {part}, read as of the class above: {some(nested)}")
    if any(images.values()) and notes:
        _note_others(others, part)
    return images


def _note_others(others: list[Path], folder: Path) -> None:
    if others:
        names = [str(path.relative_to(folder)) for path in others]
        note(f"{counted(len(others), 'file')} in {folder} left out, no image of a class: {some(names)}")


def _unsorted_images(folder: Path) -> str:
    """Describe the images that are in no folder of a class, for a message."""
    images, _ = _partition(path for path in _entries(folder) if not path.is_dir())
    return f" ({counted(len(images), 'image')} there are in no folder of a class)" if images else ""


def _partition(paths: "Iterator[Path] | list[Path]") -> tuple[list[Path], list[Path]]:
    """Partition files into images, by suffix or content, and others; broken images stay with the images."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(paths):
        (images if path.suffix.lower() in image_suffixes() or is_image(path) else others).append(path)
    return images, others


def _files_below(folder: Path, ancestors: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = folder.resolve()
    if real in ancestors:
        return  # a link to an ancestor
    for path in _entries(folder):
        if path.is_dir():
            yield from _files_below(path, (*ancestors, real))
        else:
            yield path


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not is_ignored(entry.name))
    except OSError as error:
        raise InputError(f"can't read {folder}: {error.strerror}") from error
