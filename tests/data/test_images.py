import pytest
import torch
from torch import Tensor

from ae import Images, InputError


@pytest.fixture
def numbered() -> Images:
    """23 images, whose pixels are their number; every third has a label."""
    pixels = torch.arange(23, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    number = torch.arange(23)
    return Images(pixels, torch.where(number % 3 == 0, number % 2, -1), ("even", "odd"))


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().long().tolist()


def test_batch_is_scaled_to_one() -> None:
    images = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1), torch.zeros(3).long(), ("a",))
    batch = images.batch(slice(None))
    torch.testing.assert_close(batch.images.flatten(), torch.tensor([0, 0.2, 1]))
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64


def test_in_order_shows_every_image_once(numbered: Images) -> None:
    batches = list(numbered.in_order(10))
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert [n for batch in batches for n in numbers(batch.images)] == list(range(23))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), numbered.labels)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("pixels", "labels", "complaint"),
    [
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2).long(),
            r"must be uint8 \[n c h w\], got torch.float32 \[2, 1, 4, 4\]",
        ),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"must be uint8 \[n c h w\], got torch.uint8 \[2, 4, 4\]"),
        (torch.zeros(0, 1, 4, 4).byte(), torch.zeros(0).long(), r"no images: got \[0, 1, 4, 4\]"),
        (torch.zeros(2, 1, 4, 0).byte(), torch.zeros(2).long(), r"no images: got \[2, 1, 4, 0\]"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"labels must be \[2\], one for each image, got \[3\]"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2), r"labels must be whole numbers.*got torch.float32"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 2]), "must be 0 to 1, or -1 for unlabelled, got 0 to 2"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([-2, 1]), "must be 0 to 1, or -1 for unlabelled, got -2 to 1"),
    ],
)
def test_images_refuse_invalid_pixels_and_labels(pixels: Tensor, labels: Tensor, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Images(pixels, labels, ("a", "b"))
