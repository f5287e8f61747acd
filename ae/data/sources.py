"""Where the named data sets come from. Each gives its training images, and a function that reads its test images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from ae.data.files import SUFFIXES, images_in, open_files
from ae.data.idx import read_idx
from ae.data.images import Images, ImageSet
from ae.data.streamed import Streamed
from ae.errors import InputError

Kind = TypeVar("Kind", bound=ImageSet, covariant=True)


@dataclass(frozen=True)
class Source(Generic[Kind]):
    """A data set: its training images, and its test images, read when asked for."""

    train: Kind
    test: Callable[[], Kind]


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

    return Source(read("train"), lambda: read("t10k"))


def from_torchvision(name: str, root: Path) -> Source[Images]:
    """One of torchvision's data sets by the name it has here, found in `root` or downloaded there."""
    from torchvision import datasets

    def open_part(train: bool) -> Any:
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

    def read(train: bool) -> Images:
        try:
            data = open_part(train)
        except (RuntimeError, OSError, EOFError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{name} is not whole in {root}, and can't be downloaded there: {reason}") from error
        except ImportError as error:
            raise InputError(f"{name} needs one package more: pip install -e '.[svhn]' ({error})") from error
        pixels = torch.as_tensor(data.data)
        if name == "emnist-digits":
            pixels = rearrange(pixels, "n w h -> n h w")  # its files hold every image transposed
        if name == "cifar10":
            pixels = rearrange(pixels, "n h w c -> n c h w")
        if pixels.ndim == 3:
            pixels = rearrange(pixels, "n h w -> n 1 h w")
        labels = torch.as_tensor(data.labels if name == "svhn" else data.targets).long()
        return Images(pixels.contiguous(), labels, tuple(getattr(data, "classes", _DIGITS)))

    return Source(read(train=True), lambda: read(train=False))


_HELD_OUT_FOR_TEST = 0.1


def folder(root: Path, size: int | None = None, workers: int | None = None) -> Source[ImageSet]:
    """A folder with a folder of images for each class; or with two such folders, `train` and `test`.

    Without a `test` folder, a tenth of the images is held out for the test, the same ones at every reading. Images are
    grey where all are, else RGB. With `size`, the shorter side is resized to it and the middle is cropped square;
    without, all must be of one size. With `workers`, images are not held in memory but read when they are used, by so
    many processes. Raises InputError for a folder without images, and names a file that is no image.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: --data.root takes a folder with a folder of images for each class")
    parts = [root / "train", root / "test"] if all((root / part).is_dir() for part in ("train", "test")) else [root]
    classes = tuple(sorted(path.name for path in parts[0].iterdir() if path.is_dir() and images_in(path)))
    if not classes:
        wanted = f"{parts[0]}/CLASS/*.png (or {', '.join(sorted(SUFFIXES - {'.png'}))})"
        raise InputError(f"no images in {parts[0]}: expected {wanted}")
    files = [[(path, label) for label, c in enumerate(classes) for path in images_in(part / c)] for part in parts]
    if len(parts) == 2:
        train_files, test_files = files
    else:
        order = torch.randperm(len(files[0]), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = int(len(order) * _HELD_OUT_FOR_TEST)
        test_files = [files[0][i] for i in sorted(order[:held_out])]
        train_files = [files[0][i] for i in sorted(order[held_out:])]

    def read(chosen: list[tuple[Path, int]], mode: str | None, shape: tuple[int, int] | None) -> ImageSet:
        if not chosen:
            raise InputError("no images for the test: add a folder `test`, or give ten images or more")
        paths, labels = zip(*chosen, strict=True)
        found = open_files(paths, labels, size, mode, shape)
        if workers is not None:
            channels = 1 if found.mode == "L" else 3
            return Streamed(found, torch.tensor(labels), classes, (channels, *found.shape), workers)
        return Images(torch.stack([found[i][0] for i in range(len(found))]), torch.tensor(labels), classes)

    train = read(train_files, None, None)
    channels, *shape = train.shape
    return Source(train, lambda: read(test_files, "L" if channels == 1 else "RGB", (shape[0], shape[1])))
