"""Image files and IDX files for tests."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ae.utils.seeding import generator

PIXELS = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=generator("pixels"))
LABELS = torch.tensor([3, 1, 4, 1, 5, 9])
GREY = Image.new("L", (40, 40), 7)


def write_idx(path: Path, array: Tensor) -> None:
    shape = b"".join(n.to_bytes(4) for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.to(torch.uint8).numpy().tobytes())


def save_image(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5), colour: Any = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def encode_image(format: str, image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()
