import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ae import Data, InputError
from ae.data import sources
from ae.data.decode import GivenForm
from tests.helpers.held import held
from tests.helpers.image_files import GREY, encode_image, save_image


def test_read_folder_has_a_class_for_each_folder(tmp_path: Path) -> None:
    for i in range(20):
        save_image(tmp_path / "zebra" / f"{i:02}.png", colour=i)
        save_image(tmp_path / "ant" / f"{i:02}.PNG", colour=100 + i)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    source = sources.read_folder(tmp_path)
    train, test = source.train, source.test()
    assert train.classes == ("ant", "zebra")
    assert (len(train), len(test)) == (36, 4)
    assert train.shape == (1, 5, 6)
    values = torch.cat([held(train).pixels, held(test).pixels])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [*range(20), *range(100, 120)]
    assert torch.equal(torch.cat([train.labels, test.labels]), (values < 100).long())
    assert torch.equal(held(sources.read_folder(tmp_path).test()).pixels, held(test).pixels)


def test_read_folder_uses_the_test_folder(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for i in range(count):
            save_image(tmp_path / part / "a" / f"{i}.png", colour=10 * count + i)
    source = sources.read_folder(tmp_path)
    assert held(source.train).pixels[:, 0, 0, 0].tolist() == [30, 31, 32]
    assert held(source.test()).pixels[:, 0, 0, 0].tolist() == [20, 21]


def test_read_folder_converts_all_parts_to_rgb_if_one_image_is_in_colour(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a" / "0.png", "RGB", colour=(1, 2, 3))
    save_image(tmp_path / "train" / "a" / "1.png", "L", colour=9)
    save_image(tmp_path / "test" / "a" / "0.png", "L", colour=8)
    source = sources.read_folder(tmp_path)
    assert held(source.train).pixels[:, :, 0, 0].tolist() == [[1, 2, 3], [9, 9, 9]]
    assert held(source.test()).pixels[:, :, 0, 0].tolist() == [[8, 8, 8]]


def test_read_folder_resizes_and_crops_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "wide.png")
    save_image(tmp_path / "train" / "a" / "small.png", size=(3, 3), colour=50)
    save_image(tmp_path / "test" / "a" / "tall.png", size=(3, 9), colour=60)
    source = sources.read_folder(tmp_path, GivenForm(4))
    assert held(source.train).pixels.shape == (2, 1, 4, 4)
    assert held(source.train).pixels[0].unique().tolist() == [50]
    assert held(source.train).pixels[1, 0, :, 1:3].unique().tolist() == [200]
    assert held(source.test()).pixels.unique().tolist() == [60]


def test_read_folder_raises_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no folder {tmp_path}/nowhere"):
        sources.read_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"no images in {tmp_path}: expected {tmp_path}/CLASS/\*\.png"):
        sources.read_folder(tmp_path)
    save_image(tmp_path / "a" / "0.png", size=(6, 5))
    save_image(tmp_path / "a" / "1.png", size=(7, 5))
    with pytest.raises(InputError, match=r"1\.png is 5x7, others 5x6: give a size with Data.size"):
        sources.read_folder(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1\.png is no image"):
        sources.read_folder(tmp_path)
    save_image(tmp_path / "a" / "1.png", "I;16", colour=7000)
    with pytest.raises(InputError, match=r"1\.png has pixels of more than 8 bits \(mode I;16\)"):
        sources.read_folder(tmp_path)
    save_image(tmp_path / "a" / "1.png")
    with pytest.raises(InputError, match="no images for the test: add test images, or give ten images or more"):
        sources.read_folder(tmp_path).test()


def test_read_folder_lists_or_skips_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        save_image(tmp_path / "a" / f"{i:02}.png", size=(40, 40))
    for name in ("03.png", "07.png"):
        path = tmp_path / "a" / name
        path.write_bytes(path.read_bytes()[:-20])
    os.mkfifo(tmp_path / "a" / "fifo.png")
    with pytest.raises(InputError, match=r"can't be used: .*truncated.*Data\.skip_broken") as error:
        sources.read_folder(tmp_path)
    assert "\n" not in str(error.value)
    source = sources.read_folder(tmp_path, skip_broken=True)
    assert len(source.train) + len(source.test()) == 28
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("test_images", "complaint"),
    [
        ([encode_image("PNG", GREY)[:-20]], r"test/a/0\.png is truncated or damaged"),
        ([encode_image("PNG", Image.new("L", (24, 24)))], r"test/a/0\.png is 24x24, others 40x40.*Data\.size"),
        ([], r"no images for the test"),
    ],
)
def test_read_folder_checks_test_images_when_loading(tmp_path: Path, test_images: list[bytes], complaint: str) -> None:
    for i in range(3):
        save_image(tmp_path / "train" / "a" / f"{i}.png", size=(40, 40))
    (tmp_path / "test" / "a").mkdir(parents=True)
    for i, content in enumerate(test_images):
        (tmp_path / "test" / "a" / f"{i}.png").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        Data("folder", tmp_path).load()


@pytest.mark.parametrize(
    ("image", "white", "expected"),
    [
        (Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), 65535, [0, 128, 255]),
        (Image.fromarray(np.array([[0, 2048, 5000]], np.uint16)), 4095, [0, 128, 255]),
        (Image.fromarray(np.array([[-3, 50, 100]], np.int32)), 100, [0, 128, 255]),
        (Image.fromarray(np.array([[-0.5, 0.5, np.nan]], np.float32)), 1, [0, 128, 0]),
        (Image.fromarray(np.array([[0, 7, 255]], np.uint8)), 100, [0, 7, 255]),  # 8 bits: as they are
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_read_folder_scales_deep_images_by_their_white(
    tmp_path: Path, image: Image.Image, white: int, expected: list[int], stream: bool
) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        image.save(tmp_path / part / "a" / "0.tiff")
    data = Data("folder", tmp_path, white=white, validation=0, stream=stream).load()
    assert (data.train.batch(slice(None)).images[0, 0, 0] * 255).round().tolist() == expected


@pytest.mark.parametrize("part", ["train", "test"])
def test_read_folder_takes_colour_away_only_when_asked(tmp_path: Path, part: str) -> None:
    for each in ("train", "test"):
        for i in range(3):
            mode, colour = ("RGB", (255, 0, 0)) if each == part == "test" and i == 1 else ("L", 50)
            save_image(tmp_path / each / "a" / f"{i}.png", mode, colour=colour)
    if part == "test":
        with pytest.raises(InputError, match=r"test/a/1\.png in colour, others are grey: choose with Data\.channels"):
            sources.read_folder(tmp_path)
    source = sources.read_folder(tmp_path, GivenForm(channels=1))
    assert held(source.test()).pixels[1, 0, 0, 0] == (76 if part == "test" else 50)  # luma of red, ITU-R 601
    assert sources.read_folder(tmp_path, GivenForm(channels=3)).train.shape == (3, 5, 6)


def test_read_folder_converts_palettes_and_cmyk(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    (tmp_path / "a").mkdir()
    for i in range(10):
        red.quantize(4).save(tmp_path / "a" / f"{i}.png")
        red.convert("CMYK").save(tmp_path / "a" / f"{i}.tiff")
    pixels = held(sources.read_folder(tmp_path).train).pixels
    assert pixels.shape == (18, 3, 8, 8)
    assert pixels.float().mean((0, 2, 3)).tolist() == [255, 0, 0]
