import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from ae import InputError
from ae.data import sources
from ae.utils.seeding import generator
from tests.helpers.held import held

PIXELS = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=generator("pixels"))
LABELS = torch.tensor([3, 1, 4, 1, 5, 9])


def test_mnist_is_the_whole_of_it() -> None:
    """Against figures that everybody knows: class counts, and mean and standard deviation of the pixels."""
    train, test = sources.mnist().train, sources.mnist().test()
    assert (train.pixels.shape, test.pixels.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    scaled = train.pixels.float() / 255
    assert scaled.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert scaled.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("name", sorted(sources._MNIST_SHA256))
def test_a_damaged_archive_of_mnist_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mnist"
    shutil.copytree(sources.MNIST, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    found = hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    expected = sources._MNIST_SHA256[name]
    with pytest.raises(InputError, match=f"{name} is corrupt or truncated: SHA-256 expected {expected}, found {found}"):
        sources.mnist(folder).test()


def write_idx(path: Path, array: Tensor) -> None:
    shape = b"".join(n.to_bytes(4) for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.to(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize(
    ("name", "folder", "prefix"),
    [
        ("fashion-mnist", "FashionMNIST", ""),
        ("kmnist", "KMNIST", ""),
        ("emnist-digits", "EMNIST", "emnist-digits-"),
    ],
)
def test_reads_torchvisions_idx_data_sets(tmp_path: Path, name: str, folder: str, prefix: str) -> None:
    """Files of the real layout and format with six images in them."""
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    stored = PIXELS.mT if name == "emnist-digits" else PIXELS  # EMNIST stores its images transposed
    for part, count in (("train", 6), ("test" if prefix else "t10k", 4)):
        write_idx(raw / f"{prefix}{part}-images-idx3-ubyte", stored[:count])
        write_idx(raw / f"{prefix}{part}-labels-idx1-ubyte", LABELS[:count])
    source = sources.from_torchvision(name, tmp_path)
    assert torch.equal(source.train.pixels, PIXELS[:, None])
    assert torch.equal(source.train.labels, LABELS)
    assert len(source.train.classes) == 10
    assert torch.equal(source.test().pixels, PIXELS[:4, None])


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_reads_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    source = sources.from_torchvision("cifar10", tmp_path)
    assert torch.equal(source.train.pixels, colours)
    assert torch.equal(source.test().labels, LABELS)
    assert source.train.classes == tuple("abcdefghij")


def test_reads_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator("colours"))
    labels = torch.where(LABELS == 9, 10, LABELS)  # SVHN's files call a 0 a 10
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": colours.permute(2, 3, 1, 0).numpy(), "y": labels[:, None].numpy()})
        monkeypatch.setitem(datasets.SVHN.split_list, part, ["http://127.0.0.1:9/", path.name, md5(path)])
    source = sources.from_torchvision("svhn", tmp_path)
    assert torch.equal(source.train.pixels, colours)
    assert torch.equal(source.test().labels, torch.where(LABELS == 9, 0, LABELS))
    assert source.train.classes == tuple("0123456789")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_says_what_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(InputError, match=f"{name} is not whole in .*, and can't be downloaded there") as error:
        sources.from_torchvision(name, tmp_path)
    assert "\n" not in str(error.value)


def save(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5), colour: Any = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_folder_has_a_class_for_each_folder(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / "zebra" / f"{i:02}.png", colour=i)
        save(tmp_path / "ant" / f"{i:02}.PNG", colour=100 + i)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    source = sources.folder(tmp_path)
    train, test = source.train, source.test()
    assert train.classes == ("ant", "zebra")
    assert (len(train), len(test)) == (36, 4)
    assert train.shape == (1, 5, 6)
    values = torch.cat([held(train).pixels, held(test).pixels])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [*range(20), *range(100, 120)]
    assert torch.equal(torch.cat([train.labels, test.labels]), (values < 100).long())
    assert torch.equal(held(sources.folder(tmp_path).test()).pixels, held(test).pixels)


def test_a_folder_may_bring_its_own_test_images(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for i in range(count):
            save(tmp_path / part / "a" / f"{i}.png", colour=10 * count + i)
    source = sources.folder(tmp_path)
    assert held(source.train).pixels[:, 0, 0, 0].tolist() == [30, 31, 32]
    assert held(source.test()).pixels[:, 0, 0, 0].tolist() == [20, 21]


def test_one_colour_image_makes_all_rgb_in_the_test_too(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a" / "0.png", "RGB", colour=(1, 2, 3))
    save(tmp_path / "train" / "a" / "1.png", "L", colour=9)
    save(tmp_path / "test" / "a" / "0.png", "L", colour=8)
    source = sources.folder(tmp_path)
    assert held(source.train).pixels[:, :, 0, 0].tolist() == [[1, 2, 3], [9, 9, 9]]
    assert held(source.test()).pixels[:, :, 0, 0].tolist() == [[8, 8, 8]]


def test_size_resizes_and_crops_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "wide.png")
    save(tmp_path / "train" / "a" / "small.png", size=(3, 3), colour=50)
    save(tmp_path / "test" / "a" / "tall.png", size=(3, 9), colour=60)
    source = sources.folder(tmp_path, size=4)
    assert held(source.train).pixels.shape == (2, 1, 4, 4)
    assert held(source.train).pixels[0].unique().tolist() == [50]
    assert held(source.train).pixels[1, 0, :, 1:3].unique().tolist() == [200]
    assert held(source.test()).pixels.unique().tolist() == [60]


def test_a_folder_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no folder {tmp_path}/nowhere"):
        sources.folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"no images in {tmp_path}: expected {tmp_path}/CLASS/\*\.png"):
        sources.folder(tmp_path)
    save(tmp_path / "a" / "0.png", size=(6, 5))
    save(tmp_path / "a" / "1.png", size=(7, 5))
    with pytest.raises(InputError, match=r"1\.png is 5x7, others 5x6: give a size with Data.size"):
        sources.folder(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1\.png is no image"):
        sources.folder(tmp_path)
    save(tmp_path / "a" / "1.png", "I;16", colour=7000)
    with pytest.raises(InputError, match=r"1\.png has pixels of more than 8 bits \(mode I;16\)"):
        sources.folder(tmp_path)
    save(tmp_path / "a" / "1.png")
    with pytest.raises(InputError, match="no images for the test: add a folder `test`, or give ten images or more"):
        sources.folder(tmp_path).test()
