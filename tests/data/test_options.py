from pathlib import Path
from typing import Any

import pytest
import torch

from ae import Data, InputError, Splits
from tests.helpers.held import held
from tests.helpers.image_files import save_image


def test_load_splits_mnist_as_specified(mnist: Splits) -> None:
    assert mnist.validation is not None
    assert (len(mnist.train), len(mnist.validation)) == (55_000, 5_000)
    assert (mnist.shape, mnist.classes) == ((1, 28, 28), tuple("0123456789"))
    few = Data("mnist", limit=1000, labels=100, labelled_per_batch=8).load()
    assert len(few.train) == 1000  # the limit applies after the validation images are held out
    assert torch.equal(held(few.train).pixels, held(mnist.train).pixels[:1000])
    assert few.validation is not None
    assert torch.equal(held(few.validation).pixels, held(mnist.validation).pixels)
    assert (few.train.labels >= 0).sum() == 100
    assert (few.validation.labels >= 0).all()
    (first, *_) = few.batches(32, seed=0).epoch(0)
    assert (first.labels[:8] >= 0).all()
    assert (first.labels[8:] == -1).all()


def test_load_holds_out_a_tenth_of_small_data_by_default(tmp_path: Path) -> None:
    for i in range(50):
        save_image(tmp_path / "train" / "ab"[i % 2] / f"{i}.png")
    save_image(tmp_path / "test" / "a" / "0.png")
    splits = Data("folder", tmp_path).load()
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (45, 5)
    with pytest.raises(InputError, match=r"Data\.validation must be less than the 50 training images, got 50"):
        Data("folder", tmp_path, validation=50).load()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"validation": -1}, "validation must be 0 or more, got -1"),
        ({"limit": 0}, "limit must be positive, got 0"),
        ({"labels": -5}, "labels must be positive, got -5"),
        ({"size": 0}, "size must be positive, got 0"),
        ({"labelled_per_batch": 0}, "labelled_per_batch must be positive, got 0"),
    ],
)
def test_data_refuses_numbers_out_of_range(arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Data(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"size": 8}, {"workers": 3}, {"seed": 1}, {"skip_broken": True}])
def test_data_refuses_unread_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"Data\.{next(iter(options))} is not read"):
        Data(**options)


def test_load_requires_the_root_of_a_folder() -> None:
    with pytest.raises(InputError, match=r"data set folder needs Data\.root"):
        Data("folder").load()
    with pytest.raises(InputError, match="no folder nowhere"):
        Data("folder", Path("nowhere")).load()


def test_load_binarises_training_validation_and_test_images() -> None:
    data = Data("mnist", limit=100, validation=20, binarise=True).load()
    assert data.validation is not None
    assert data.test is not None
    batch = next(data.batches(50, seed=0).starting_at(0))
    for pixels in (batch.images, data.validation.batch(slice(None)).images, data.test().batch(slice(50)).images):
        assert set(pixels.unique().tolist()) == {0, 1}
    with pytest.raises(InputError, match="streamed can't be binarised"):
        Data("folder", stream=True, binarise=True)
