"""Data read while they are used give what data held in memory give."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

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
    """A user's own data set."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], index % 3


def data(root: Path, workers: int | None) -> Splits:
    """With every option that chooses among images."""
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
def test_the_images_are_the_same_as_in_memory(pictures: Path, workers: int) -> None:
    held, streamed = data(pictures, None), data(pictures, workers)
    assert held.test is not None
    assert streamed.test is not None
    pairs = [(held.train, streamed.train), (held.validation, streamed.validation), (held.test(), streamed.test())]
    for one, other in pairs:
        assert isinstance(one, ImageSet)
        assert isinstance(other, ImageSet)
        assert (one.shape, one.classes, len(one)) == (other.shape, other.classes, len(other))
        for a, b in zip(one.in_order(7), other.in_order(7), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
        chosen = torch.tensor([5, 0, 3])
        assert torch.equal(one.select(chosen).batch(slice(2)).images, other.select(chosen).batch(slice(2)).images)


def test_training_is_the_same_for_any_number_of_workers(pictures: Path) -> None:
    held = trained(data(pictures, None))
    for workers in (0, 1, 2):
        streamed = trained(data(pictures, workers))
        for (name, a), b in zip(held.state_dict().items(), streamed.state_dict().values(), strict=True):
            assert torch.equal(a, b), (workers, name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_data_set_of_the_users_own_trains_in_three_lines(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (40, 1, 9, 13), dtype=torch.uint8, generator=generator("own"))
    own = Squares(images if dtype == torch.uint8 else images / 255)
    data = Splits(train=Streamed.of(own, classes=("a", "b", "c"), workers=1))
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
def test_a_wrong_item_gets_one_clear_line(second: object, complaint: str, workers: int) -> None:
    streamed = Streamed.of([(torch.zeros(1, 4, 4), 0), (second, 0)], classes=("a",), workers=workers)
    with pytest.raises(InputError, match=complaint) as error:
        list(streamed.in_order(2))
    assert "\n" not in str(error.value)


def read_all(root: Path) -> None:
    splits = Data("folder", root, size=12, validation=0, stream=True, workers=1).load()
    assert splits.test is not None
    for part in (splits.train, splits.test()):
        list(part.in_order(16))


def test_a_picture_that_cannot_be_decoded_is_named(pictures: Path) -> None:
    read_all(pictures)
    broken = pictures / "cat/000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cat/000.png is truncated or damaged") as error:
        read_all(pictures)
    assert "\n" not in str(error.value)


def test_refuses_what_cannot_be_streamed() -> None:
    with pytest.raises(InputError, match="no images: the data set is empty"):
        Streamed.of([], classes=())
    with pytest.raises(InputError, match="must have a label for each of 1 images, got 2"):
        Streamed([(torch.zeros(1, 2, 2), 0)], torch.zeros(2, dtype=torch.int64), ("a",), (1, 2, 2))
    with pytest.raises(InputError, match="workers must be 0 or more, got -1"):
        Data("folder", workers=-1)
    with pytest.raises(InputError, match="only a folder can be streamed, not mnist"):
        Data("mnist", stream=True)
