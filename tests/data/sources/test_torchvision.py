import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import scipy.io
import torch
from torchvision import datasets

from ae import InputError
from ae.data import sources
from ae.utils.seeding import generator
from tests.helpers.image_files import LABELS, PIXELS, write_idx


@pytest.mark.parametrize(
    ("name", "folder", "prefix"),
    [
        ("fashion-mnist", "FashionMNIST", ""),
        ("kmnist", "KMNIST", ""),
        ("emnist-digits", "EMNIST", "emnist-digits-"),
    ],
)
def test_read_torchvision_reads_idx_files(tmp_path: Path, name: str, folder: str, prefix: str) -> None:
    """Write files of the real layout and format, with six images."""
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    stored = PIXELS.mT if name == "emnist-digits" else PIXELS  # EMNIST stores its images transposed
    for part, count in (("train", 6), ("test" if prefix else "t10k", 4)):
        write_idx(raw / f"{prefix}{part}-images-idx3-ubyte", stored[:count])
        write_idx(raw / f"{prefix}{part}-labels-idx1-ubyte", LABELS[:count])
    source = sources.read_torchvision(name, tmp_path)
    assert torch.equal(source.train.pixels, PIXELS[:, None])
    assert torch.equal(source.train.labels, LABELS)
    assert len(source.train.classes) == 10
    assert torch.equal(source.test().pixels, PIXELS[:4, None])


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_read_torchvision_reads_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    colours = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator("colours"))

    def write(name: str, content: dict[str, Any]) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, md5(folder / name)

    batch = {"data": colours.flatten(1).numpy(), "labels": LABELS.tolist()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [write("test_batch", batch)])
    name, digest = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    source = sources.read_torchvision("cifar10", tmp_path)
    assert torch.equal(source.train.pixels, colours)
    assert torch.equal(source.test().labels, LABELS)
    assert source.train.classes == tuple("abcdefghij")


def test_read_torchvision_reads_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator("colours"))
    labels = torch.where(LABELS == 9, 10, LABELS)  # SVHN labels the digit 0 as 10
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": colours.permute(2, 3, 1, 0).numpy(), "y": labels[:, None].numpy()})
        monkeypatch.setitem(datasets.SVHN.split_list, part, ["http://127.0.0.1:9/", path.name, md5(path)])
    source = sources.read_torchvision("svhn", tmp_path)
    assert torch.equal(source.train.pixels, colours)
    assert torch.equal(source.test().labels, torch.where(LABELS == 9, 0, LABELS))
    assert source.train.classes == tuple("0123456789")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_read_torchvision_names_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # no server
    with pytest.raises(InputError, match=f"{name} is not whole in .*, and can't be downloaded there") as error:
        sources.read_torchvision(name, tmp_path)
    assert "\n" not in str(error.value)
