"""MNIST, and data sets of IDX files in the layout of MNIST."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ae.data.files import counted, note
from ae.data.idx import read_idx, read_pair
from ae.data.images import Images
from ae.data.sources.source import Source
from ae.utils.errors import InputError

CLASSES_OF_DIGITS = tuple("0123456789")
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist-digits": "EMNIST"}

MNIST = Path(__file__).parents[1] / "mnist"
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


def read_mnist(folder: Path = MNIST) -> Source[Images]:
    """Read 60,000 training and 10,000 test digits [1 28 28] (LeCun, Cortes & Burges) from the archives in `folder`."""

    def read(part: str) -> Images:
        def archive(name: str) -> Tensor:
            return read_idx(folder / name, _MNIST_SHA256[name])

        pixels = rearrange(archive(f"{part}-images-idx3-ubyte.gz"), "n h w -> n 1 h w")
        return Images(pixels, archive(f"{part}-labels-idx1-ubyte.gz").long(), CLASSES_OF_DIGITS)

    test = read("t10k")
    return Source(read("train"), lambda: test)


_CLASSES = {
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "emnist-digits": CLASSES_OF_DIGITS,
}  # fmt: skip
_CONTENT_SHA256 = {  # of the decompressed published archives
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


def read_idx_folder(name: str, root: Path) -> Source[Images]:
    """Read a data set of four IDX files in the layout of MNIST: `train-` and `t10k-`, images and labels.

    Files are searched for in `root`, `root/raw`, `root/NAME` and `root/NAME/raw` (NAME as in torchvision), with or
    without `.gz`, named `-idx3-ubyte` or `.idx3-ubyte`. For the name mnist, any content is read, and the classes are
    the numbers among the labels. Raises InputError that lists the files and folders searched.
    """
    files = find_idx(name, root)
    if None in files.values():
        hint = "; without Data.root, mnist comes with the package" if name == "mnist" else ""
        raise InputError(f"no IDX files of {name} in {root}: {searched_places(name, root)}{hint}")
    pairs = {part: _read_idx_part(name, part, paths) for part, paths in files.items() if paths is not None}
    (train, train_labels), (test, test_labels) = pairs["train"], pairs["test"]
    if train.shape[1:] != test.shape[1:]:
        sizes = f"{'x'.join(map(str, train.shape[1:]))} in the training and {'x'.join(map(str, test.shape[1:]))}"
        raise InputError(f"images of {name} in {root} are {sizes} in the test")
    classes = _CLASSES.get(name)
    if classes is None:
        numbers = torch.cat([train_labels, test_labels]).unique()
        classes = tuple(map(str, numbers.tolist()))
        train_labels, test_labels = torch.searchsorted(numbers, train_labels), torch.searchsorted(numbers, test_labels)
    test_images = Images(_upright(name, test), test_labels, classes)
    return Source(Images(_upright(name, train), train_labels, classes), lambda: test_images)


def _upright(name: str, pixels: Tensor) -> Tensor:
    """Add the channel axis, [n h w] -> [n 1 h w]; EMNIST stores its images transposed."""
    return rearrange(pixels, "n w h -> n 1 h w" if name == "emnist-digits" else "n h w -> n 1 h w").contiguous()


def _read_idx_part(name: str, part: str, files: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
    """Read images and labels; images of the published size must match the published checksums."""
    pixels, labels = read_pair(*files)
    digests = _CONTENT_SHA256.get(name, {}).get(part)
    if digests is not None and pixels.numel() + 16 == _PUBLISHED_SIZE[name, part]:
        return read_pair(*files, digests)
    if digests is not None:
        note(f"{files[0]} is not the published {name}: it holds {counted(len(pixels), 'image')}")
    return pixels, labels


def find_idx(name: str, root: Path) -> dict[str, tuple[Path, Path] | None]:
    """Find the files (images, labels) of the parts `train` and `test` below `root`; None for a missing part."""
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
    inner = root / FOLDERS[name]
    return [root, root / "raw", inner / "raw", inner, root / "gzip", inner / "raw" / "gzip"]


def _idx_names(folder: Path, name: str, part: str, kind: str) -> list[Path]:
    axes = {"images": 3, "labels": 1}[kind]
    prefixes = [f"emnist-digits-{part}"] if name == "emnist-digits" else []
    prefixes += ["train"] if part == "train" else ["t10k", "test"]
    stems = [f"{prefix}-{kind}{dot}idx{axes}-ubyte" for prefix in prefixes for dot in "-."]
    return [folder / f"{stem}{suffix}" for stem in stems for suffix in ("", ".gz")]


def searched_places(name: str, root: Path) -> str:
    """Describe the files and folders that `find_idx` searches, for messages."""
    folders = ", ".join(map(str, _idx_folders(name, root)[:4]))
    first = {part: _idx_names(root, name, part, "images")[0].name for part in ("train", "test")}
    present = [part for part, files in find_idx(name, root).items() if files is not None]
    only = f" (only those of the part {present[0]} are there)" if present else ""
    return f"looked for {first['train']} and {first['test']}, and their labels, also as .gz, in {folders}{only}"
