"""Whatever comes in as data is converted, or refused in one line."""

import gzip
import io
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ae import Data, Images, InputError, Streamed
from ae.data import sources
from ae.data.convert import as_images, as_splits
from ae.data.idx import read_idx
from tests.data.test_sources import LABELS, PIXELS, save, write_idx
from tests.helpers.held import held


def folder_of(tmp_path: Path, image: Image.Image, **options: Any) -> torch.Tensor:
    """The pixels that a folder gives of an image saved as PNG."""
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        image.save(tmp_path / part / "a" / "0.png", **options)
    return held(sources.folder(tmp_path).train).pixels[0]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_is_composed_onto_white(tmp_path: Path, mode: str) -> None:
    ink = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (0, 0, 4, 1))
    image = ink.convert("RGBA" if mode == "PA" else mode)
    pixels = folder_of(tmp_path, image.quantize(4) if mode == "PA" else image)
    assert pixels[:, 0].unique().tolist() == [0]
    assert pixels[:, 1].unique().tolist() == [255]


def test_orientation_is_applied_and_sizes_are_of_the_shown_image(tmp_path: Path) -> None:
    upright = Image.new("L", (6, 4))
    upright.paste(255, (0, 0, 6, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored top is the shown right
    pixels = folder_of(tmp_path, upright, exif=exif)
    assert pixels.shape == (1, 6, 4)
    assert pixels[0, :, 2:].unique().tolist() == [255]
    assert pixels[0, :, :2].unique().tolist() == [0]


def test_scan_ignores_system_files_and_names_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "train" / "a" / "0.png")
    save(tmp_path / "train" / "b" / "deep" / "1.gif")
    save(tmp_path / "val" / "a" / "2.png")
    save(tmp_path / "test" / "c" / "3.tga")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        save(tmp_path / "train" / name / "0.png")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("text")
    (tmp_path / "train" / "a" / "Thumbs.db").write_text("text")
    source = sources.folder(tmp_path)
    assert source.train.classes == ("a", "b", "c")
    assert source.train.labels.tolist() == [0, 1]
    assert source.validation is not None
    assert (len(source.validation), source.test().labels.tolist()) == (1, [2])
    said = capsys.readouterr().err
    for part in ("1 nested folder", "b/deep", "1 file in", "a/notes.txt", "1 folder without images", "empty"):
        assert part in said
    assert "Thumbs" not in said


def test_folder_lists_all_broken_files_or_skips_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        save(tmp_path / "a" / f"{i:02}.png", size=(40, 40))
    for name in ("03.png", "07.png"):
        path = tmp_path / "a" / name
        path.write_bytes(path.read_bytes()[:-20])
    os.mkfifo(tmp_path / "a" / "fifo.png")
    with pytest.raises(InputError, match=r"can't be used: .*truncated.*Data\.skip_broken") as error:
        sources.folder(tmp_path)
    assert "\n" not in str(error.value)
    source = sources.folder(tmp_path, skip_broken=True)
    assert len(source.train) + len(source.test()) == 28
    assert "left out" in capsys.readouterr().err


def pixels_of(format: str, image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def with_long_text(image: Image.Image) -> bytes:
    """A PNG whose compressed text is larger than Pillow takes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 2 * PngImagePlugin.MAX_TEXT_CHUNK, zip=True)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


GREY = Image.new("L", (40, 40), 7)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.png", LFS, r"a\.png is no image: a Git LFS pointer.*git lfs pull"),
        ("a.jpg", b"<!DOCTYPE html><html>", r"a\.jpg is no image: an HTML page"),
        ("a.png", b"", r"a\.png is no image: the file is empty"),
        ("a.png", pixels_of("PNG", Image.new("1", (20_000, 20_000))), r"a\.png has more than 89,478,485 pixels"),
        ("a.png", with_long_text(GREY), r"a\.png is .*[Dd]ecompressed [Dd]ata [Tt]oo [Ll]arge"),
        ("a.ppm", pixels_of("PPM", GREY)[:-100], r"a\.ppm is truncated or damaged"),
        ("a.ppm", b"P6 40 40 99999999 ", r"a\.ppm is (no image|truncated or damaged)"),
        ("a.bmp", pixels_of("BMP", GREY)[:-100], r"a\.bmp is truncated or damaged"),
        ("a.bmp", b"BM" + bytes(60), r"a\.bmp is (no image|truncated or damaged)"),
        ("a.tiff", pixels_of("TIFF", GREY)[:60], r"a\.tiff is (no image|truncated or damaged)"),
        ("a.gif", pixels_of("GIF", GREY)[:-30], r"a\.gif is truncated or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("a.") else "",
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, name: str, content: bytes, complaint: str, unhooked: None
) -> None:
    for i in range(3):
        save(tmp_path / "class" / f"{i}.png", size=(40, 40))
    (tmp_path / "class" / name).write_bytes(content)
    for stream in (False, True):  # streamed ones before the training, too
        with pytest.raises(InputError, match=complaint) as error:
            Data("folder", tmp_path, size=8, stream=stream).load()
        one_line_of(error.value)


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".avif", ".tga", ".jp2", ".webp", ".BMP"])
def test_folder_reads_every_format_that_pillow_reads(tmp_path: Path, suffix: str) -> None:
    Image.init()
    if Image.EXTENSION.get(suffix.lower()) not in Image.SAVE:
        pytest.skip(f"this Pillow can't write {suffix}")
    for i in range(10):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a" / f"{i}{suffix}")
    train = held(sources.folder(tmp_path).train)
    assert train.shape == (3, 16, 16)
    assert (train.pixels.float().mean((0, 2, 3)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 12


def test_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    real = os.scandir

    def scandir(path: Path) -> Any:  # for root, nothing is unreadable
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"can't read .*/b: Permission denied"):
        sources.folder(tmp_path)


@pytest.mark.parametrize(
    ("test_images", "complaint"),
    [
        ([pixels_of("PNG", GREY)[:-20]], r"test/a/0\.png is truncated or damaged"),
        ([pixels_of("PNG", Image.new("L", (24, 24)))], r"test/a/0\.png is 24x24, others 40x40.*Data\.size"),
        ([], r"no images for the test"),
    ],
)
def test_test_images_are_looked_at_before_training(tmp_path: Path, test_images: list[bytes], complaint: str) -> None:
    for i in range(3):
        save(tmp_path / "train" / "a" / f"{i}.png", size=(40, 40))
    (tmp_path / "test" / "a").mkdir(parents=True)
    for i, content in enumerate(test_images):
        (tmp_path / "test" / "a" / f"{i}.png").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        Data("folder", tmp_path).load()


def test_a_tenth_of_small_data_is_held_out_by_default(tmp_path: Path) -> None:
    for i in range(50):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png")
    save(tmp_path / "test" / "a" / "0.png")
    splits = Data("folder", tmp_path).load()
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (45, 5)
    with pytest.raises(InputError, match=r"Data\.validation must be less than the 50 training images, got 50"):
        Data("folder", tmp_path, validation=50).load()


@pytest.mark.parametrize("layout", ["", "MNIST/raw"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_with_a_root_reads_its_idx_files(tmp_path: Path, layout: str, dot: str, zipped: bool) -> None:
    raw = tmp_path / layout
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for kind, axes, array in (("images", 3, PIXELS), ("labels", 1, LABELS)):
            path = raw / f"{part}-{kind}{dot}idx{axes}-ubyte"
            write_idx(path, array)
            if zipped:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
    splits = Data("mnist", tmp_path, validation=0).load()
    assert splits.classes == ("1", "3", "4", "5", "9")
    order = held(splits.train).pixels.flatten(1).sum(1).argsort()
    assert torch.equal(held(splits.train).pixels[order], PIXELS[:, None][PIXELS.flatten(1).sum(1).argsort()])


def test_idx_files_swapped_or_html_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looked for train-images-idx3-ubyte"):
        sources.idx("mnist", tmp_path)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", LABELS)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", PIXELS)
    with pytest.raises(InputError, match="images and labels are swapped"):
        sources.idx("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte holds no IDX.*HTML page"):
        sources.idx("mnist", tmp_path)


@pytest.mark.parametrize("options", [{"size": 8}, {"workers": 3}, {"seed": 1}, {"skip_broken": True}])
def test_data_refuses_options_that_nothing_reads(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"Data\.{next(iter(options))} is not read"):
        Data(**options)


@pytest.mark.parametrize("labels", [[0.5, 1.0], [True, False], torch.tensor([0.5, 1])])
def test_streamed_refuses_labels_that_are_no_whole_numbers(labels: Any, unhooked: None) -> None:
    with pytest.raises(InputError, match="labels must be whole numbers"):
        Streamed([(torch.zeros(1, 2, 2), 0)] * 2, labels, ("a", "b"), (1, 2, 2))
    with pytest.raises(InputError, match=r"the label of item 0 must be a whole number, got 0\.5"):
        Streamed.of([(torch.zeros(1, 2, 2), 0.5)], ("a",))


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
def test_data_of_every_kind_give_the_same_images(data: Any, unhooked: None) -> None:
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
def test_other_data_are_refused_at_the_door(data: Any, unhooked: None) -> None:
    with pytest.raises(InputError) as error:
        as_images(data)
    assert "evaluate" in str(error.value)
    assert "\n" not in str(error.value)


def one_line_of(error: InputError) -> None:
    assert "\n" not in str(error)


def fuzz_idx(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(raw)
        try:
            assert read_idx(path).dtype == torch.uint8
        except InputError as error:
            one_line_of(error)


HEADS = st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x08\x03\0\0\0\x01", b"\x1f\x8b\x08", b"\0\0\x0d\x01"])
RAW = st.builds(
    lambda head, rest, zip: gzip.compress(head + rest) if zip else head + rest, HEADS, st.binary(), st.booleans()
)
NAMES = st.sampled_from(["train", "test", "val", "a", "b", ".x", "@eaDir", "0.png", "1.jpg", "n.txt", "é"])
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map(tuple), st.none() | st.binary(max_size=40), max_size=8
)


def fuzz_tree(tree: dict[tuple[str, ...], bytes | None]) -> None:
    root = Path("tree")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for parts, content in tree.items():
        try:
            root.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
            if content is None:
                save(root.joinpath(*parts[:-1], f"{parts[-1]}.png"))
            else:
                root.joinpath(*parts).write_bytes(content)
        except OSError:
            continue
    try:
        assert isinstance(held(sources.folder(root).train), Images)
    except InputError as error:
        one_line_of(error)


QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
test_any_bytes_are_an_idx_array_or_one_error = QUICK(given(RAW)(fuzz_idx))
test_any_tree_is_a_data_set_or_one_error = QUICK(given(TREES)(fuzz_tree))
test_any_bytes_are_an_idx_array_or_one_error_at_length = pytest.mark.slow(LONG(given(RAW)(fuzz_idx)))
test_any_tree_is_a_data_set_or_one_error_at_length = pytest.mark.slow(LONG(given(TREES)(fuzz_tree)))
