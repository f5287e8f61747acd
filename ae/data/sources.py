"""Where the named data sets come from. Each gives its training images, and a function that reads its test images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from ae.data.files import Files, counted, decoded, note, open_files
from ae.data.idx import read_idx, read_pair
from ae.data.images import Images, ImageSet
from ae.data.scan import Labelled, scan
from ae.data.streamed import Streamed
from ae.utils.errors import InputError, first_line

Kind = TypeVar("Kind", bound=ImageSet, covariant=True)


@dataclass(frozen=True)
class Source(Generic[Kind]):
    """A data set: its training images, its test images, looked at before and read when asked for.

    `validation` is None where the data set does not say which images validate.
    """

    train: Kind
    test: Callable[[], Kind]
    validation: Kind | None = None


_DIGITS = tuple("0123456789")

MNIST = Path(__file__).parent / "mnist"
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


def mnist(folder: Path = MNIST) -> Source[Images]:
    """LeCun, Cortes & Burges: 60,000 and 10,000 handwritten digits [1 28 28], from the archives in `folder`."""

    def read(part: str) -> Images:
        def archive(name: str) -> Tensor:
            return read_idx(folder / name, _MNIST_SHA256[name])

        pixels = rearrange(archive(f"{part}-images-idx3-ubyte.gz"), "n h w -> n 1 h w")
        return Images(pixels, archive(f"{part}-labels-idx1-ubyte.gz").long(), _DIGITS)

    test = read("t10k")
    return Source(read("train"), lambda: test)


_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist-digits": "EMNIST"}
_CLASSES = {
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "emnist-digits": _DIGITS,
}  # fmt: skip
_CONTENT_SHA256 = {  # of what is inside the published archives
    "fashion-mnist": {
        "train": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "test": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}
_PUBLISHED_SIZE = {("fashion-mnist", "train"): 47_040_016, ("fashion-mnist", "test"): 7_840_016}


def idx(name: str, root: Path) -> Source[Images]:
    """A data set of four IDX files in MNIST's layout: `train-` and `t10k-`, `images-idx3-ubyte`, `labels-idx1-ubyte`.

    They are looked for in `root`, `root/raw`, `root/NAME` and `root/NAME/raw` (NAME as torchvision has it), with or
    without `.gz`, with `-idx3-ubyte` or `.idx3-ubyte`. With the name mnist, the content is the user's own, and classes
    are the numbers among the labels. Raises InputError that says where was looked for which files.
    """
    files = find_idx(name, root)
    missing = [part for part, found in files.items() if found is None]
    if missing:
        cure = "; without Data.root, mnist comes with the package" if name == "mnist" else ""
        raise InputError(f"no IDX files of {name} in {root}: {_looked_for(name, root)}{cure}")
    pairs = {part: _read_idx_part(name, part, found) for part, found in files.items() if found is not None}
    (train, train_labels), (test, test_labels) = pairs["train"], pairs["test"]
    if train.shape[1:] != test.shape[1:]:
        sizes = f"{'x'.join(map(str, train.shape[1:]))} in the training and {'x'.join(map(str, test.shape[1:]))}"
        raise InputError(f"images of {name} in {root} are {sizes} in the test")
    classes = _CLASSES.get(name)
    if classes is None:
        numbers = torch.cat([train_labels, test_labels]).unique()
        classes = tuple(map(str, numbers.tolist()))
        train_labels, test_labels = torch.searchsorted(numbers, train_labels), torch.searchsorted(numbers, test_labels)
    held = Images(_upright(name, test), test_labels, classes)
    return Source(Images(_upright(name, train), train_labels, classes), lambda: held)


def _upright(name: str, pixels: Tensor) -> Tensor:
    """[n h w] -> [n 1 h w]; EMNIST's files hold every image transposed."""
    return rearrange(pixels, "n w h -> n 1 h w" if name == "emnist-digits" else "n h w -> n 1 h w").contiguous()


def _read_idx_part(name: str, part: str, files: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
    """Images and labels; of the published size, they must have the published content."""
    pixels, labels = read_pair(*files)
    digests = _CONTENT_SHA256.get(name, {}).get(part)
    if digests is not None and pixels.numel() + 16 == _PUBLISHED_SIZE[name, part]:
        return read_pair(*files, digests)
    if digests is not None:
        note(f"{files[0]} is not the published {name}: it holds {counted(len(pixels), 'image')}")
    return pixels, labels


def find_idx(name: str, root: Path) -> dict[str, tuple[Path, Path] | None]:
    """The files (images, labels) of the parts train and test of a data set below `root`; None where there are none."""
    return {part: _find_part(name, root, part) for part in ("train", "test")}


def _find_part(name: str, root: Path, part: str) -> tuple[Path, Path] | None:
    for folder in _idx_folders(name, root):
        images, labels = (
            next((path for path in _idx_names(folder, name, part, kind) if path.exists()), None)
            for kind in ("images", "labels")
        )
        if images is not None and labels is not None:
            return images, labels
    return None


def _idx_folders(name: str, root: Path) -> list[Path]:
    inner = root / _FOLDERS[name]
    return [root, root / "raw", inner / "raw", inner, root / "gzip", inner / "raw" / "gzip"]


def _idx_names(folder: Path, name: str, part: str, kind: str) -> list[Path]:
    axes = {"images": 3, "labels": 1}[kind]
    prefixes = [f"emnist-digits-{part}"] if name == "emnist-digits" else []
    prefixes += ["train"] if part == "train" else ["t10k", "test"]
    names = [f"{prefix}-{kind}{dot}idx{axes}-ubyte" for prefix in prefixes for dot in "-."]
    return [folder / f"{each}{end}" for each in names for end in ("", ".gz")]


def _looked_for(name: str, root: Path) -> str:
    folders = ", ".join(map(str, _idx_folders(name, root)[:4]))
    first = {part: _idx_names(root, name, part, "images")[0].name for part in ("train", "test")}
    found = [part for part, files in find_idx(name, root).items() if files is not None]
    only = f" (only those of the part {found[0]} are there)" if found else ""
    return f"looked for {first['train']} and {first['test']}, and their labels, also as .gz, in {folders}{only}"


def from_torchvision(name: str, root: Path) -> Source[Images]:
    """One of torchvision's data sets by the name it has here, found in `root` or downloaded there.

    IDX files (fashion-mnist, kmnist, emnist-digits) are found as `idx` finds them, whoever packed them.
    """
    if name in _FOLDERS and None not in find_idx(name, root).values():
        return idx(name, root)

    def open_part(train: bool) -> Any:
        from torchvision import datasets

        options: dict[str, Any] = {"root": root, "download": True}
        match name:
            case "fashion-mnist":
                return datasets.FashionMNIST(train=train, **options)
            case "kmnist":
                return datasets.KMNIST(train=train, **options)
            case "emnist-digits":
                return datasets.EMNIST(split="digits", train=train, **options)
            case "cifar10":
                return datasets.CIFAR10(train=train, **options)
            case "svhn":
                return datasets.SVHN(split="train" if train else "test", **options)
        raise InputError(f"no data set {name} in torchvision")

    def opened(train: bool) -> Any:
        try:
            return open_part(train)
        except InputError:
            raise
        except Exception as error:  # of files that are something else: pickle's, scipy's, and other errors
            looked = f"; {_looked_for(name, root)}" if name in _FOLDERS else ""
            raise InputError(
                f"{name} is not whole in {root}, and can't be downloaded there: {first_line(error)}{looked}"
            ) from error

    def read(train: bool) -> Images:
        data = opened(train)
        pixels = torch.as_tensor(data.data)
        if name == "cifar10":
            pixels = rearrange(pixels, "n h w c -> n c h w")
        labels = torch.as_tensor(data.labels if name == "svhn" else data.targets).long()
        return Images(pixels.contiguous(), labels, tuple(getattr(data, "classes", _DIGITS)))

    if name in _FOLDERS:
        opened(True)
        return idx(name, root)
    test = read(train=False)
    return Source(read(train=True), lambda: test)


_HELD_OUT_FOR_TEST = 0.1


def folder(
    root: Path, size: int | None = None, workers: int | None = None, skip_broken: bool = False
) -> Source[ImageSet]:
    """A folder with a folder of images for each class; or with such folders `train`, and `val` or `test` or both.

    Which files are read, and of which class they are, is told in `scan`. Without a `test` folder, a tenth of the
    training images is held out for the test, the same ones at every reading. Images are grey where all are, else RGB;
    they are as a viewer shows them: turned by EXIF, transparent ones on white. With `size`, the shorter side is
    resized to it and the middle is cropped square; without, all must be of one size. With `workers`, images are not
    held in memory but read when they are used, by so many processes. All files are looked at here, the test's, too.

    Raises InputError for a folder without images, and lists files that are no image; `skip_broken` leaves these out.
    """
    found = scan(root)
    train_files, test_files = found.train, found.test
    if test_files is None:
        order = torch.randperm(len(train_files), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = int(len(order) * _HELD_OUT_FOR_TEST)
        test_files = [train_files[i] for i in sorted(order[:held_out])]
        train_files = [train_files[i] for i in sorted(order[held_out:])]

    def opened(chosen: Labelled, mode: str | None = None, shape: tuple[int, int] | None = None) -> Files:
        paths, labels = zip(*chosen, strict=True)
        return open_files(paths, labels, size, mode, shape, skip_broken)

    def read(files: Files) -> ImageSet:
        if workers is not None:
            channels = 1 if files.mode == "L" else 3
            return Streamed(files, torch.tensor(files.labels), found.classes, (channels, *files.shape), workers)
        pixels, labels = decoded(files, skip_broken)
        return Images(pixels, torch.tensor(labels), found.classes)

    train = opened(train_files)
    if not test_files:
        raise InputError("no images for the test: add a folder `test`, or give ten images or more")
    test = opened(test_files, train.mode, train.shape)
    validation = None if found.validation is None else opened(found.validation, train.mode, train.shape)
    return Source(read(train), lambda: read(test), None if validation is None else read(validation))
