import gzip
import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from ae import Data, InputError
from ae.data import sources
from ae.data.sources.mnist import _MNIST_SHA256
from tests.helpers.held import held
from tests.helpers.image_files import LABELS, PIXELS, write_idx


def test_read_mnist_has_the_published_statistics() -> None:
    """Compare class counts, and mean and standard deviation of the pixels."""
    train, test = sources.read_mnist().train, sources.read_mnist().test()
    assert (train.pixels.shape, test.pixels.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    scaled = train.pixels.float() / 255
    assert scaled.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert scaled.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("name", sorted(_MNIST_SHA256))
def test_read_mnist_names_a_damaged_archive(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mnist"
    shutil.copytree(sources.MNIST, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    digest = hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    expected = _MNIST_SHA256[name]
    with pytest.raises(
        InputError, match=f"{name} is corrupt or truncated: SHA-256 expected {expected}, found {digest}"
    ):
        sources.read_mnist(folder).test()


@pytest.mark.parametrize("layout", ["", "MNIST/raw"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_folder_finds_every_layout(tmp_path: Path, layout: str, dot: str, zipped: bool) -> None:
    raw = tmp_path / layout
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for kind, axes, array in (("images", 3, PIXELS), ("labels", 1, LABELS)):
            path = raw / f"{part}-{kind}{dot}idx{axes}-ubyte"
            write_idx(path, array)
            if zipped:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
    splits = Data("mnist", tmp_path, validation=0).load()
    assert splits.classes == ("1", "3", "4", "5", "9")
    order = held(splits.train).pixels.flatten(1).sum(1).argsort()
    assert torch.equal(held(splits.train).pixels[order], PIXELS[:, None][PIXELS.flatten(1).sum(1).argsort()])


def test_read_idx_folder_names_missing_swapped_and_html_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looked for train-images-idx3-ubyte"):
        sources.read_idx_folder("mnist", tmp_path)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", LABELS)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", PIXELS)
    with pytest.raises(InputError, match="images and labels are swapped"):
        sources.read_idx_folder("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte holds no IDX.*HTML page"):
        sources.read_idx_folder("mnist", tmp_path)
