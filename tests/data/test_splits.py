from pathlib import Path

import pytest
import torch

from ae import Data, Images, ImageSet, InputError, Splits
from ae.data.splits import hold_out, keep_labels
from tests.helpers.held import held


@pytest.fixture
def numbered() -> Images:
    """100 images with a number each; 60 of class a, 30 of class b, 10 of class c."""
    pixels = torch.arange(100, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return Images(pixels, torch.tensor([0] * 60 + [1] * 30 + [2] * 10), ("a", "b", "c"))


def numbers(images: ImageSet) -> list[int]:
    return held(images).pixels.flatten().tolist()


def test_holds_out_a_random_part_that_is_always_the_same(numbered: Images) -> None:
    train, validation = hold_out(numbered, 20)
    assert validation is not None
    assert (len(train), len(validation)) == (80, 20)
    assert sorted(numbers(train) + numbers(validation)) == list(range(100))
    assert len(validation.labels.unique()) > 1
    torch.manual_seed(5)
    again, _ = hold_out(numbered, 20)
    assert numbers(again) == numbers(train)


def test_holds_out_nothing(numbered: Images) -> None:
    train, validation = hold_out(numbered, 0)
    assert validation is None
    assert sorted(numbers(train)) == list(range(100))


@pytest.mark.parametrize(("count", "of_each"), [(3, [1, 1, 1]), (10, [4, 3, 3]), (30, [10, 10, 10])])
def test_keeps_labels_balanced_over_classes(numbered: Images, count: int, of_each: list[int]) -> None:
    kept = keep_labels(numbered, count, seed=0)
    assert [(kept.labels == c).sum().item() for c in range(3)] == of_each
    assert (kept.labels == -1).sum() == 100 - count
    assert torch.equal(held(kept).pixels, numbered.pixels)
    has_label = kept.labels >= 0
    assert torch.equal(kept.labels[has_label], numbered.labels[has_label])


def test_the_seed_chooses_which_labels_are_kept(numbered: Images) -> None:
    def kept(seed: int) -> list[int]:
        return (keep_labels(numbered, 9, seed).labels >= 0).nonzero().flatten().tolist()

    assert kept(0) == kept(0)
    assert len({tuple(kept(seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("count", "complaint"),
    [(2, "at least the number of classes, 3, got 2"), (33, "labels=33 needs 11 of class c, which has 10")],
)
def test_refuses_labels_that_cannot_be_kept(numbered: Images, count: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        keep_labels(numbered, count, seed=0)


@pytest.mark.parametrize("count", [100, 101])
def test_refuses_to_hold_out_everything(numbered: Images, count: int) -> None:
    with pytest.raises(InputError, match=f"validation must be less than the 100 training images, got {count}"):
        hold_out(numbered, count)


def test_mnist_is_split_as_asked(mnist: Splits) -> None:
    assert mnist.validation is not None
    assert (len(mnist.train), len(mnist.validation)) == (55_000, 5_000)
    assert (mnist.shape, mnist.classes) == ((1, 28, 28), tuple("0123456789"))
    few = Data("mnist", limit=1000, labels=100, labelled_per_batch=8).load()
    assert len(few.train) == 1000  # cut after the validation images are held out
    assert torch.equal(held(few.train).pixels, held(mnist.train).pixels[:1000])
    assert few.validation is not None
    assert torch.equal(held(few.validation).pixels, held(mnist.validation).pixels)
    assert (few.train.labels >= 0).sum() == 100
    assert (few.validation.labels >= 0).all()
    (first, *_) = few.batches(32, seed=0).epoch(0)
    assert (first.labels[:8] >= 0).all()
    assert (first.labels[8:] == -1).all()


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
def test_refuses_bad_numbers(arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Data(**arguments)  # type: ignore[arg-type]


def test_a_folder_needs_a_root() -> None:
    with pytest.raises(InputError, match=r"data set folder needs Data\.root"):
        Data("folder").load()
    with pytest.raises(InputError, match="no folder nowhere"):
        Data("folder", Path("nowhere")).load()


def test_binarised_digits_are_so_in_training_validation_and_test() -> None:
    data = Data("mnist", limit=100, validation=20, binarise=True).load()
    assert data.validation is not None
    assert data.test is not None
    batch = next(data.batches(50, seed=0).starting_at(0))
    for pixels in (batch.images, data.validation.batch(slice(None)).images, data.test().batch(slice(50)).images):
        assert set(pixels.unique().tolist()) == {0, 1}
    with pytest.raises(InputError, match="streamed can't be binarised"):
        Data("folder", stream=True, binarise=True)
