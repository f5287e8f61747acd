import pytest
import torch
from torch import Tensor

from ae import Augment, Batches, Images, InputError


@pytest.fixture
def numbered() -> Images:
    """23 images, whose pixels are their number; every third has a label."""
    pixels = torch.arange(23, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    number = torch.arange(23)
    return Images(pixels, torch.where(number % 3 == 0, number % 2, -1), ("even", "odd"))


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().long().tolist()


def test_epoch_shows_every_image_once_with_its_label(numbered: Images) -> None:
    batches = list(Batches(numbered, 5, seed=0).epoch(0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    shown = [n for batch in batches for n in numbers(batch.images)]
    assert sorted(shown) == list(range(23))
    assert shown != sorted(shown)
    assert torch.cat([batch.labels for batch in batches]).tolist() == numbered.labels[shown].tolist()


def test_order_depends_only_on_seed_and_epoch(numbered: Images) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(numbered, 5, seed)
        torch.rand(7)
        list(batches.epoch(99))
        return torch.cat(list(batches.order(epoch))).tolist()

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("labelled", [None, 2])
@pytest.mark.parametrize("step", [0, 1, 4, 5, 13])
def test_starting_at_continues_with_the_same_batches(numbered: Images, labelled: int | None, step: int) -> None:
    batches = Batches(numbered, 5, seed=1, augment=Augment(shift=1, rotate=20.0), labelled_per_batch=labelled)
    from_start, from_step = batches.starting_at(0), batches.starting_at(step)
    for _ in range(step):
        next(from_start)
    for _ in range(12):
        a, b = next(from_start), next(from_step)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_batches_begin_with_cycled_labelled_images(numbered: Images) -> None:
    batches = Batches(numbered, 5, seed=0, labelled_per_batch=3)  # 8 labelled, 15 unlabelled
    assert len(batches) == 8
    cycled = []
    for epoch in range(3):
        shown = [numbers(batch.images) for batch in batches.epoch(epoch)]
        assert all(n % 3 == 0 for batch in shown for n in batch[:3])
        unlabelled = [n for batch in shown for n in batch[3:]]
        assert sorted(unlabelled) == [n for n in range(23) if n % 3]  # every unlabelled image once
        cycled += [n for batch in shown for n in batch[:3]]
    for start in range(0, len(cycled) - 7, 8):  # 72 = 9 cycles of the 8 labelled
        assert sorted(cycled[start : start + 8]) == list(range(0, 23, 3))
    assert len({tuple(cycled[start : start + 8]) for start in range(0, 72, 8)}) > 5


def test_batches_are_augmented_differently_in_every_epoch(numbered: Images) -> None:
    pixels = torch.randint(0, 256, (23, 1, 9, 9), dtype=torch.uint8)
    batches = Batches(Images(pixels, numbered.labels, numbered.classes), 23, seed=0, augment=Augment(shift=2))

    def epoch(number: int) -> Tensor:
        (batch,) = batches.epoch(number)
        return batch.images[torch.cat(list(batches.order(number))).argsort()]  # in the order of the data set

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))


@pytest.mark.parametrize(
    ("batch_size", "labelled", "complaint"),
    [
        (24, None, "Recipe.batch_size must be at most 23, the number of training images, got 24"),
        (5, 0, "labelled_per_batch must be 1 to 4 of a batch of 5, got 0"),
        (5, 5, "labelled_per_batch must be 1 to 4 of a batch of 5, got 5"),
    ],
)
def test_batches_refuse_invalid_sizes(numbered: Images, batch_size: int, labelled: int | None, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Batches(numbered, batch_size, seed=0, labelled_per_batch=labelled)


@pytest.mark.parametrize(("label", "counts"), [(-1, "0 and 23"), (0, "23 and 0")])
def test_batches_refuse_labelled_per_batch_without_both_kinds(numbered: Images, label: int, counts: str) -> None:
    alike = Images(numbered.pixels, torch.full((23,), label), numbered.classes)
    with pytest.raises(InputError, match=f"mixes labelled and unlabelled images, got {counts}"):
        Batches(alike, 5, seed=0, labelled_per_batch=2)


def test_binarise_samples_pixels_with_their_grey_as_probability() -> None:
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).reshape(1, 1, 2, 2).expand(400, 1, 2, 2).contiguous()
    images = Images(grey, torch.zeros(400).long(), ("a",))
    batches = Batches(images, 400, seed=0, binarise=True)
    (first,), (second,), (repeated,) = batches.epoch(0), batches.epoch(1), batches.epoch(0)
    for batch in (first, second):
        assert set(batch.images.unique().tolist()) == {0, 1}
        means = batch.images.mean(0).flatten()
        torch.testing.assert_close(means, torch.tensor([0, 0.2, 0.5, 1]), rtol=0, atol=0.07)
    assert torch.equal(first.images, repeated.images)
    assert not torch.equal(first.images, second.images)
    once = images.binarised("test")
    assert set(once.pixels.unique().tolist()) == {0, 255}
    assert torch.equal(once.pixels, images.binarised("test").pixels)
    assert not torch.equal(once.pixels, images.binarised("validation").pixels)
    torch.testing.assert_close(
        once.batch(slice(None)).images.mean(0).flatten(), torch.tensor([0, 0.2, 0.5, 1]), rtol=0, atol=0.07
    )
