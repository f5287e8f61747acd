import pytest
import torch

from ae import Images, ImageSet, InputError
from ae.data.splits import hold_out, keep_labels
from tests.helpers.held import held


@pytest.fixture
def numbered() -> Images:
    """100 images, whose pixel is their number: 60 of class a, 30 of class b, 10 of class c."""
    pixels = torch.arange(100, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return Images(pixels, torch.tensor([0] * 60 + [1] * 30 + [2] * 10), ("a", "b", "c"))


def numbers(images: ImageSet) -> list[int]:
    return held(images).pixels.flatten().tolist()


def test_hold_out_is_random_and_reproducible(numbered: Images) -> None:
    train, validation = hold_out(numbered, 20)
    assert validation is not None
    assert (len(train), len(validation)) == (80, 20)
    assert sorted(numbers(train) + numbers(validation)) == list(range(100))
    assert len(validation.labels.unique()) > 1
    torch.manual_seed(5)
    second_train, _ = hold_out(numbered, 20)
    assert numbers(second_train) == numbers(train)


def test_hold_out_of_no_images_gives_no_validation(numbered: Images) -> None:
    train, validation = hold_out(numbered, 0)
    assert validation is None
    assert sorted(numbers(train)) == list(range(100))


@pytest.mark.parametrize(("count", "of_each"), [(3, [1, 1, 1]), (10, [4, 3, 3]), (30, [10, 10, 10])])
def test_keep_labels_balances_classes(numbered: Images, count: int, of_each: list[int]) -> None:
    images = keep_labels(numbered, count, seed=0)
    assert [(images.labels == c).sum().item() for c in range(3)] == of_each
    assert (images.labels == -1).sum() == 100 - count
    assert torch.equal(held(images).pixels, numbered.pixels)
    has_label = images.labels >= 0
    assert torch.equal(images.labels[has_label], numbered.labels[has_label])


def test_keep_labels_depends_on_the_seed(numbered: Images) -> None:
    def kept_labels(seed: int) -> list[int]:
        return (keep_labels(numbered, 9, seed).labels >= 0).nonzero().flatten().tolist()

    assert kept_labels(0) == kept_labels(0)
    assert len({tuple(kept_labels(seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("count", "complaint"),
    [(2, "at least the number of classes, 3, got 2"), (33, "labels=33 needs 11 of class c, which has 10")],
)
def test_keep_labels_refuses_too_few_and_too_many(numbered: Images, count: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        keep_labels(numbered, count, seed=0)


@pytest.mark.parametrize("count", [100, 101])
def test_hold_out_refuses_all_images(numbered: Images, count: int) -> None:
    with pytest.raises(InputError, match=f"validation must be less than the 100 training images, got {count}"):
        hold_out(numbered, count)
