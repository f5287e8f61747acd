"""Streamed data equal data in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from ae import (
    Augment,
    Autoencoder,
    Classifier,
    ConvEncoder,
    Data,
    DeconvDecoder,
    InputError,
    Joint,
    Recipe,
    Splits,
    Streamed,
    evaluate,
    fit,
)
from ae.data.images import ImageSet
from ae.utils.seeding import generator


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """120 colour pictures of two classes and of mixed sizes."""
    pixels = torch.randint(0, 256, (120, 20, 24, 3), dtype=torch.uint8, generator=generator("pictures"))
    for i, picture in enumerate(pixels):
        path = tmp_path / "pictures" / ("cat", "dog")[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[: 16 + i % 5, : 17 + i % 7].numpy()).save(path)
    return tmp_path / "pictures"


class Squares(Dataset[tuple[Tensor, int]]):
    """User-defined data set."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], index % 3


def data(root: Path, workers: int | None) -> Splits:
    """Load with every option that selects images."""
    options = {} if workers is None else {"stream": True, "workers": workers}
    choice = {"validation": 20, "limit": 70, "labels": 10, "labelled_per_batch": 4}
    return Data("folder", root, size=12, augment=Augment(shift=1), **choice, **options).load()  # type: ignore[arg-type]


def trained(splits: Splits) -> Autoencoder:
    torch.manual_seed(0)
    heads = {"class": Classifier((4, 6, 6), 2)}
    model = Autoencoder(ConvEncoder(3, (4,)), DeconvDecoder(3, (4,)), heads=heads)
    fit(model, Joint(), splits, Recipe(epochs=2, batch_size=16, lr=0.01))
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_equal_images_in_memory(pictures: Path, workers: int) -> None:
    in_memory, streamed = data(pictures, None), data(pictures, workers)
    assert in_memory.test is not None
    assert streamed.test is not None
    parts = [(splits.train, splits.validation, splits.test()) for splits in (in_memory, streamed)]  # type: ignore[misc]
    for expected, images in zip(*parts, strict=True):
        assert isinstance(expected, ImageSet)
        assert isinstance(images, ImageSet)
        assert (images.shape, images.classes, len(images)) == (expected.shape, expected.classes, len(expected))
        for a, b in zip(expected.in_order(7), images.in_order(7), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
        index = torch.tensor([5, 0, 3])
        assert torch.equal(expected.select(index).batch(slice(2)).images, images.select(index).batch(slice(2)).images)


@pytest.mark.slow
def test_training_is_independent_of_workers(pictures: Path) -> None:
    in_memory = trained(data(pictures, None))
    for workers in (0, 1, 2):
        streamed = trained(data(pictures, workers))
        for (name, a), b in zip(in_memory.state_dict().items(), streamed.state_dict().values(), strict=True):
            assert torch.equal(a, b), (workers, name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_streamed_trains_on_a_user_data_set(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (40, 1, 9, 13), dtype=torch.uint8, generator=generator("own"))
    dataset = Squares(images if dtype == torch.uint8 else images / 255)
    data = Splits(train=Streamed.of(dataset, classes=("a", "b", "c"), workers=1))
    assert (data.shape, data.train.labels.tolist()) == ((1, 9, 13), [0, 1, 2] * 13 + [0])
    model = Autoencoder(ConvEncoder(), DeconvDecoder())
    before = evaluate(model, data.train)["mse"]
    fit(model, Joint(classification=0.0), data, Recipe(epochs=4, batch_size=8))
    assert evaluate(model, data.train)["mse"] < before
    torch.testing.assert_close(data.train.batch(slice(3, 5)).images, images[3:5] / 255)


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (torch.zeros(1, 4, 5), r"item 1 must be \[1, 4, 4\], got \[1, 4, 5\]"),
        (torch.zeros(1, 4, 4).to(torch.complex64), "item 1 must hold uint8, or floats.*got torch.complex64"),
        ("picture", "item 1 must be a tensor.*got str"),
        (torch.full((1, 4, 4), 255.0), r"item 1 must lie in \[0, 1\], got 255 to 255"),
        (torch.full((1, 4, 4), torch.nan), r"item 1 must lie in \[0, 1\], got nan"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_raises_one_line_for_an_invalid_item(second: object, complaint: str, workers: int) -> None:
    streamed = Streamed.of([(torch.zeros(1, 4, 4), 0), (second, 0)], classes=("a",), workers=workers)
    with pytest.raises(InputError, match=complaint) as error:
        list(streamed.in_order(2))
    assert "\n" not in str(error.value)


def read_all(root: Path) -> None:
    splits = Data("folder", root, size=12, validation=0, stream=True, workers=1).load()
    assert splits.test is not None
    for part in (splits.train, splits.test()):
        list(part.in_order(16))


def test_streamed_names_a_file_that_can_not_be_decoded(pictures: Path) -> None:
    read_all(pictures)
    broken = pictures / "cat/000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cat/000.png is truncated or damaged") as error:
        read_all(pictures)
    assert "\n" not in str(error.value)


def test_streamed_refuses_invalid_data() -> None:
    with pytest.raises(InputError, match="no images: the data set is empty"):
        Streamed.of([], classes=())
    with pytest.raises(InputError, match="must have a label for each of 1 images, got 2"):
        Streamed([(torch.zeros(1, 2, 2), 0)], torch.zeros(2, dtype=torch.int64), ("a",), (1, 2, 2))
    with pytest.raises(InputError, match="workers must be 0 or more, got -1"):
        Data("folder", workers=-1)
    with pytest.raises(InputError, match=r"Data\.stream is not read by mnist, only by folder, arrays or hub"):
        Data("mnist", stream=True)


@pytest.mark.parametrize("labels", [[0.5, 1.0], [True, False], torch.tensor([0.5, 1])])
def test_streamed_refuses_labels_that_are_not_integers(labels: Any, unhooked: None) -> None:
    with pytest.raises(InputError, match="labels must be whole numbers"):
        Streamed([(torch.zeros(1, 2, 2), 0)] * 2, labels, ("a", "b"), (1, 2, 2))
    with pytest.raises(InputError, match=r"the label of item 0 must be a whole number, got 0\.5"):
        Streamed.of([(torch.zeros(1, 2, 2), 0.5)], ("a",))


class Labelled(Dataset[tuple[Tensor, int]]):
    """A data set as of torchvision: its items can't be read, and its labels are known."""

    def __init__(self, targets: Any, target_transform: Any = None) -> None:
        self.targets, self.target_transform = targets, target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert index == 0, "only the first item is read, for the shape"
        return torch.zeros(1, 4, 4), 0


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (Labelled([2, 0, 1]), [2, 0, 1]),
        (Labelled([2, 0, 1], lambda label: 1 - label % 2), [1, 1, 0]),
        (Subset(Labelled(torch.tensor([2, 0, 1])), [0, 2]), [2, 1]),
        (ConcatDataset([Labelled([2, 0]), Subset(Labelled([0, 3, 1]), [0, 2])]), [2, 0, 0, 1]),
        (ConcatDataset([TensorDataset(torch.zeros(2, 1, 4, 4)), Labelled([1])]), [-1, -1, 1]),
    ],
)
def test_streamed_reads_labels_without_items(items: Any, expected: list[int]) -> None:
    assert Streamed.of(items, classes=tuple("abcd")).labels.tolist() == expected


def test_streamed_reads_items_of_a_concatenation_for_labels_that_a_part_lacks() -> None:
    items: Any = ConcatDataset(
        [TensorDataset(torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])), Squares(torch.zeros(4, 1, 4, 4))]
    )
    assert Streamed.of(items).labels.tolist() == [1, 2, 0, 1, 2, 0]
