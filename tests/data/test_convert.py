"""Arrays, tensors and data sets are converted, or refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ae import InputError
from ae.data.convert import as_images, as_splits

PICTURE = torch.arange(12, dtype=torch.uint8).reshape(3, 4)


@pytest.mark.parametrize(
    "data",
    [
        PICTURE[None],
        PICTURE[None, None].numpy(),
        (PICTURE[None].numpy().astype(np.int32), [0]),
        (PICTURE[None] / 255, torch.tensor([0], dtype=torch.int16)),
        TensorDataset(PICTURE[None], torch.tensor([0])),
        [(Image.fromarray(PICTURE.numpy()), 0)],
        [{"image": PICTURE.numpy(), "label": np.int64(0)}],
        [(PICTURE / 255, 0)],
    ],
)
def test_as_splits_converts_every_kind_of_data(data: Any, unhooked: None) -> None:
    images = as_splits(data).train
    assert images.shape == (1, 3, 4)
    torch.testing.assert_close(images.batch(slice(None)).images, PICTURE[None, None] / 255)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    "data",
    [DataLoader([0]), Endless(), None, 3, "text", np.zeros((2, 2)), np.full((2, 3, 3), 7.0), np.array([None])],  # type: ignore[arg-type]
)
def test_as_images_refuses_other_data(data: Any, unhooked: None) -> None:
    with pytest.raises(InputError) as error:
        as_images(data)
    assert "evaluate" in str(error.value)
    assert "\n" not in str(error.value)
