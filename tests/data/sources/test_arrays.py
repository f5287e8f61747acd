"""Arrays in files: the same data set in every format, parts, targets, and errors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from ae import Data, InputError, Splits, Streamed
from ae.data import sources
from tests.helpers.held import held


def write_npz(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    np.savez_compressed(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder / "data.npz"


def write_npy(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_safetensors(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    safetensors.numpy.save_file(dict(arrays), folder / "data.safetensors")
    return folder / "data.safetensors"


def write_hdf5(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    with h5py.File(folder / "data.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name.replace("train_", "train/"), data=array, chunks=True, compression="gzip")
    return folder / "data.h5"


WRITERS = [write_npz, write_npy, write_safetensors, write_hdf5]


@pytest.mark.parametrize("write", WRITERS)
def test_read_arrays_equals_the_data_set_in_memory(write: Callable[..., Path], digits: Splits, tmp_path: Path) -> None:
    train, test = held(digits.train), held(digits.test())  # type: ignore[misc]
    thickness = torch.rand(len(train))
    arrays = {
        "train_images": train.pixels[:, 0],
        "train_labels": train.labels,
        "train_thickness": thickness,
        "test_images": test.pixels,
        "test_labels": test.labels[:, None].short(),  # [n 1], as MedMNIST has them
        "test_thickness": torch.zeros(len(test)),
    }
    path = write(tmp_path, {name: array.numpy() for name, array in arrays.items()})
    source = sources.read_arrays(path)
    assert torch.equal(held(source.train).pixels, train.pixels)
    assert torch.equal(source.train.labels, train.labels)
    assert torch.equal(source.train.targets["thickness"].values, thickness)
    assert torch.equal(held(source.test()).pixels, test.pixels)
    assert torch.equal(source.test().labels, test.labels)
    assert source.train.classes == source.test().classes == tuple("0123456789")


@pytest.mark.parametrize("write", [write_npy, write_safetensors, write_hdf5])
@pytest.mark.parametrize("workers", [0, 2])
def test_read_arrays_streams_the_same_batches(
    write: Callable[..., Path], workers: int, digits: Splits, tmp_path: Path
) -> None:
    train = held(digits.train)
    path = write(tmp_path, {"images": train.pixels.numpy(), "labels": train.labels.numpy()})
    in_memory = Data("arrays", path, validation=20).load()
    streamed = Data("arrays", path, validation=20, stream=True, workers=workers).load()
    assert isinstance(streamed.train, Streamed)
    for ours, theirs in zip(streamed.batches(32, 1).epoch(0), in_memory.batches(32, 1).epoch(0), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    assert streamed.test is not None
    assert len(streamed.test()) == 25


def test_read_arrays_reads_floats_and_trailing_channels_unrounded(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 6, 5, 3), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x_train=images, x_test=images[:4], classes=np.array(["a", "b"]))
    source = sources.read_arrays(tmp_path / "data.npz")
    assert source.train.shape == (3, 6, 5)
    assert source.train.classes == ("a", "b")
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(source.train.batch(slice(None)).images, expected)
    assert (source.train.labels == -1).all()


def test_read_arrays_reads_a_single_npy_file_without_loading_it(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((50, 4, 4), np.uint8))
    source = sources.read_arrays(tmp_path / "many.npy", workers=0)
    assert isinstance(source.train, Streamed)
    assert (len(source.train), len(source.test()), source.train.classes) == (45, 5, ())
    assert source.train.batch(slice(3)).images.shape == (3, 1, 4, 4)


@pytest.mark.parametrize(
    ("name", "part", "rest"),
    [
        ("images", "train", "images"),
        ("x_train", "train", "x"),
        ("val_images", "validation", "images"),
        ("test/labels", "test", "labels"),
        ("training.pixels", "train", "pixels"),
        ("hair_colour_test", "test", "hair_colour"),
        ("latest", "train", "latest"),
        ("train", "train", "train"),
    ],
)
def test_split_name_tells_parts(name: str, part: str, rest: str) -> None:
    from ae.data.sources.array_files import split_name

    assert split_name(name) == (part, rest)


ZEROS = np.zeros((12, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"codes": ZEROS}, "no array of images, but codes; expected one of image"),
        ({"images": ZEROS, "pixels": ZEROS}, "more than one of the arrays can be meant, images and pixels"),
        ({"images": ZEROS, "labels": np.zeros(11, int)}, r"labels must be \[12\], one for each image, got \[11\]"),
        ({"images": ZEROS, "labels": np.zeros(12)}, "labels must be whole numbers"),
        ({"images": ZEROS, "age": np.zeros(3)}, "the target age must have 12 values"),
        ({"images": ZEROS.astype(np.float32) + 2}, r"images must lie in \[0, 1\], got 2 to 2"),
        ({"images": ZEROS.astype(np.uint16) + 300}, "images must lie in 0 to 255, got 300 to 300"),
        ({"images": np.full((12, 4, 4), np.nan)}, r"images must lie in \[0, 1\], got nan"),
        ({"images": np.zeros((12, 16), np.uint8)}, r"images must be \[n c h w\] or \[n h w\], got \[12, 16\]"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "no images"),
        ({"images": np.array([{}] * 12)}, "holds Python objects: store numbers"),
        ({"test_images": ZEROS}, "no training images: it has arrays test_images"),
        ({"images": ZEROS[:5]}, "no images for the test: add test images, or give ten images or more"),
        ({"images": ZEROS, "classes": np.zeros(3)}, "classes of .* must be names"),
    ],
)
def test_read_arrays_refuses_other_arrays(arrays: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=complaint) as error:
        sources.read_arrays(tmp_path / "data.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["data.npz", "data.npy", "data.safetensors", "data.h5", "data.txt", "missing.npz"])
def test_read_arrays_refuses_broken_files(name: str, tmp_path: Path) -> None:
    if "missing" not in name:
        (tmp_path / name).write_bytes(b"PK no arrays" * 20)
    with pytest.raises(InputError, match=name) as error:
        sources.read_arrays(tmp_path / name)
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.npy files in .*empty"):
        sources.read_arrays(tmp_path / "empty")


def test_read_arrays_refuses_to_stream_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=ZEROS)
    with pytest.raises(InputError, match=r"can't be read on demand, since it is a zip archive: store \.npy"):
        Data("arrays", tmp_path / "data.npz", stream=True).load()
    with pytest.raises(InputError, match=r"data set arrays needs Data\.root"):
        Data("arrays").load()
