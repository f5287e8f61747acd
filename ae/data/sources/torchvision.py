"""Data sets of torchvision."""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from ae.data.images import Images
from ae.data.sources.mnist import CLASSES_OF_DIGITS, FOLDERS, find_idx, read_idx_folder, searched_places
from ae.data.sources.source import Source
from ae.utils.errors import InputError, first_line


def read_torchvision(name: str, root: Path) -> Source[Images]:
    """Read a data set of torchvision from `root`, or download it there.

    IDX files (fashion-mnist, kmnist, emnist-digits) are found as `read_idx_folder` finds them.
    """
    if name in FOLDERS:
        if None in find_idx(name, root).values():
            _open(name, root, train=True)  # downloads both parts
        return read_idx_folder(name, root)
    test = _read(name, root, train=False)
    return Source(_read(name, root, train=True), lambda: test)


def _read(name: str, root: Path, train: bool) -> Images:
    data = _open(name, root, train)
    pixels = torch.as_tensor(data.data)
    if name == "cifar10":
        pixels = rearrange(pixels, "n h w c -> n c h w")
    labels = torch.as_tensor(data.labels if name == "svhn" else data.targets).long()
    return Images(pixels.contiguous(), labels, tuple(getattr(data, "classes", CLASSES_OF_DIGITS)))


def _open(name: str, root: Path, train: bool) -> Any:
    """Open a part of a torchvision data set; every error becomes an InputError."""
    try:
        return _dataset(name, root, train)
    except InputError:
        raise
    except Exception as error:  # damaged files raise errors of pickle, scipy and others
        reason = first_line(error)
        searched = f"; {searched_places(name, root)}" if name in FOLDERS else ""
        raise InputError(f"{name} is not whole in {root}, and can't be downloaded there: {reason}{searched}") from error


def _dataset(name: str, root: Path, train: bool) -> Any:
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
