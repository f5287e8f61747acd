import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin

from ae import Data, InputError
from ae.data import sources
from tests.helpers.held import held
from tests.helpers.image_files import GREY, encode_image, save_image


def folder_of(tmp_path: Path, image: Image.Image, **options: Any) -> torch.Tensor:
    """Save an image as PNG in a folder, and read its pixels."""
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        image.save(tmp_path / part / "a" / "0.png", **options)
    return held(sources.read_folder(tmp_path).train).pixels[0]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_as_displayed_composes_transparency_onto_white(tmp_path: Path, mode: str) -> None:
    ink = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (0, 0, 4, 1))
    image = ink.convert("RGBA" if mode == "PA" else mode)
    pixels = folder_of(tmp_path, image.quantize(4) if mode == "PA" else image)
    assert pixels[:, 0].unique().tolist() == [0]
    assert pixels[:, 1].unique().tolist() == [255]


def test_as_displayed_applies_the_exif_orientation(tmp_path: Path) -> None:
    upright = Image.new("L", (6, 4))
    upright.paste(255, (0, 0, 6, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored top is displayed on the right
    pixels = folder_of(tmp_path, upright, exif=exif)
    assert pixels.shape == (1, 6, 4)
    assert pixels[0, :, 2:].unique().tolist() == [255]
    assert pixels[0, :, :2].unique().tolist() == [0]


def with_long_text(image: Image.Image) -> bytes:
    """Encode a PNG whose compressed text exceeds Pillow's limit."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 2 * PngImagePlugin.MAX_TEXT_CHUNK, zip=True)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.png", LFS, r"a\.png is no image: a Git LFS pointer.*git lfs pull"),
        ("a.jpg", b"<!DOCTYPE html><html>", r"a\.jpg is no image: an HTML page"),
        ("a.png", b"", r"a\.png is no image: the file is empty"),
        ("a.png", encode_image("PNG", Image.new("1", (20_000, 20_000))), r"a\.png has more than 89,478,485 pixels"),
        ("a.png", with_long_text(GREY), r"a\.png is .*[Dd]ecompressed [Dd]ata [Tt]oo [Ll]arge"),
        ("a.ppm", encode_image("PPM", GREY)[:-100], r"a\.ppm is truncated or damaged"),
        ("a.ppm", b"P6 40 40 99999999 ", r"a\.ppm is (no image|truncated or damaged)"),
        ("a.bmp", encode_image("BMP", GREY)[:-100], r"a\.bmp is truncated or damaged"),
        ("a.bmp", b"BM" + bytes(60), r"a\.bmp is (no image|truncated or damaged)"),
        ("a.tiff", encode_image("TIFF", GREY)[:60], r"a\.tiff is (no image|truncated or damaged)"),
        ("a.gif", encode_image("GIF", GREY)[:-30], r"a\.gif is truncated or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("a.") else "",
)
def test_opened_image_names_the_file_in_decoder_errors(
    tmp_path: Path, name: str, content: bytes, complaint: str, unhooked: None
) -> None:
    for i in range(3):
        save_image(tmp_path / "class" / f"{i}.png", size=(40, 40))
    (tmp_path / "class" / name).write_bytes(content)
    for stream in (False, True):  # streamed files are checked before training, too
        with pytest.raises(InputError, match=complaint) as error:
            Data("folder", tmp_path, size=8, stream=stream).load()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".avif", ".tga", ".jp2", ".webp", ".BMP"])
def test_opened_image_reads_every_format_of_pillow(tmp_path: Path, suffix: str) -> None:
    Image.init()
    if Image.EXTENSION.get(suffix.lower()) not in Image.SAVE:
        pytest.skip(f"this Pillow can't write {suffix}")
    for i in range(10):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a" / f"{i}{suffix}")
    train = held(sources.read_folder(tmp_path).train)
    assert train.shape == (3, 16, 16)
    assert (train.pixels.float().mean((0, 2, 3)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 12
