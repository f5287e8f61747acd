"""Targets beside the labels: checked, carried through data sets, batches and augmentation, and read from CSV files."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ae import (
    Augment,
    Autoencoder,
    Batch,
    Batches,
    Classifier,
    ConvEncoder,
    Data,
    Images,
    InputError,
    Regressor,
    Splits,
    Streamed,
    Target,
)
from ae.data import sources
from ae.data.convert import as_images
from ae.data.decode import GivenForm
from ae.data.identity import data_identity, differences
from ae.evaluation.extract import encode
from ae.functional import is_known
from tests.helpers.image_files import save_image

AGES = torch.tensor([1.5, math.nan, 3.0, 4.0, 5.0, 6.5])
KINDS = torch.tensor([0, 1, -1, 1, 0, 1])


def images_with(**targets: Any) -> Images:
    pixels = torch.arange(6 * 16, dtype=torch.uint8).view(6, 1, 4, 4)
    return Images(pixels, torch.tensor([0, 1, 2, 0, 1, 2]), ("a", "b", "c"), targets)


def same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and bool(torch.allclose(first.double(), second.double(), equal_nan=True))


def test_images_carry_targets_to_batches() -> None:
    maps = torch.randint(-1, 3, (6, 4, 4), dtype=torch.int16)
    images = images_with(age=AGES.double(), kind=Target(KINDS, ("cat", "dog")), mask=maps, many=np.ones((6, 2), bool))
    batch = images.select(torch.tensor([5, 0, 2])).batch(torch.tensor([1, 2]))
    assert list(batch.targets) == ["label", "age", "kind", "mask", "many"]
    assert same(batch.labels, torch.tensor([0, 2]))
    assert same(batch.target("age"), torch.tensor([1.5, 3.0]))
    assert same(batch.target("kind"), torch.tensor([0, -1]))
    assert same(batch.target("mask"), maps[[0, 2]].long())
    assert same(batch.target("many"), torch.ones(2, 2).long())
    relabelled = images.relabelled(torch.full((6,), -1)).binarised("x")
    assert same(relabelled.batch(slice(0, 6)).target("age"), AGES)
    assert images.to("cpu").targets["kind"].classes == ("cat", "dog")
    with pytest.raises(InputError, match="the data have no target other, but label, age, kind, mask, many"):
        batch.target("other")


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ({"age": AGES[:5]}, "the target age must have 6 values, one for each image, got 5"),
        ({"age": AGES / 0}, "the target age must be finite, or NaN where missing, got infinity"),
        ({"kind": KINDS - 1}, "the target kind must be integers 0 or more, or -1 where missing, got -2"),
        ({"kind": Target(KINDS, ("a",))}, "the target kind must be 0 to 0, or -1 where missing, got 1"),
        ({"label": KINDS}, "the name of a target must be another: give those as labels, got 'label'"),
        ({"a/b": KINDS}, "text without a slash, got 'a/b'"),
        ({3: KINDS}, "text without a slash, got 3"),
        ({"age": ["x"] * 6}, "the target age must hold numbers"),
        ({"age": 3.0}, r"the target age must be numbers \[n ...\]"),
    ],
)
@pytest.mark.usefixtures("unhooked")
def test_images_refuse_targets_that_do_not_fit(targets: dict[Any, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Images(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.zeros(6).long(), ("a",), targets)


def test_splits_refuse_different_targets() -> None:
    with pytest.raises(InputError, match="must have the same targets, got age and none"):
        Splits(images_with(age=AGES), images_with())


class Items:
    """Items (image, {targets})."""

    def __init__(self, change: dict[int, dict[str, Any]] | None = None) -> None:
        self.change = change or {}

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        targets: dict[str, Any] = {"label": i % 3, "y": i, "age": AGES[i].item(), "mask": np.full((4, 4), i % 2)}
        return torch.full((1, 4, 4), i / 10), {**targets, **self.change.get(i, {})}


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_reads_targets_with_the_items(workers: int) -> None:
    streamed = Streamed.of(Items(), workers=workers)
    assert same(streamed.labels, torch.tensor([0, 1, 2, 0, 1, 2]))
    batches = list(streamed.in_order(4))
    assert same(torch.cat([batch.target("age") for batch in batches]), AGES)
    assert same(torch.cat([batch.target("y") for batch in batches]), torch.arange(6))
    masks = torch.cat([batch.target("mask") for batch in batches])
    assert same(masks, (torch.arange(6) % 2)[:, None, None].expand(6, 4, 4))
    assert len(streamed.batch(torch.arange(0)).target("age")) == 0
    chosen = streamed.select(torch.tensor([3, 1])).batch(torch.tensor([1, 0]))
    assert same(chosen.target("age"), AGES[[1, 3]])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({4: {"age": None}}, "item 4 has no target age: give it, or NaN where it is missing"),
        (
            {4: {"mask": np.zeros((4, 5), int)}},
            r"the target mask of item 4 must be \[4, 4\] as of item 0, got \[4, 5\]",
        ),
        ({4: {"mask": np.zeros((4, 4))}}, "the target mask of item 4 must be an integer as of item 0, got a float"),
        ({4: {"age": "old"}}, "the target age of item 4 must hold numbers"),
    ],
)
def test_streamed_refuses_targets_of_another_kind(change: dict[int, dict[str, Any]], complaint: str) -> None:
    streamed = Streamed.of(Items(change), workers=0)
    with pytest.raises(InputError, match=complaint):
        list(streamed.in_order(3))


def test_streamed_holds_targets_in_memory() -> None:
    streamed = Streamed(Items(), torch.zeros(6).long(), ("a",), (1, 4, 4), 0, {"kind": KINDS})
    chosen = streamed.select(torch.tensor([5, 2, 0])).to("cpu")
    assert same(torch.cat([batch.target("kind") for batch in chosen.in_order(2)]), KINDS[[5, 2, 0]])


def test_convert_takes_arrays_with_targets() -> None:
    images = torch.zeros(6, 4, 4, dtype=torch.uint8)
    for data in (
        (images, {"labels": [0, 1, 0, 1, 0, 1], "age": AGES}),
        {"images": images, "label": [0, 1, 0, 1, 0, 1], "age": AGES},
        Batch(images[:, None] / 255, {"label": torch.tensor([0, 1, 0, 1, 0, 1]), "age": AGES}),
    ):
        batch = as_images(data).batch(slice(0, 6))
        assert same(batch.labels, torch.tensor([0, 1, 0, 1, 0, 1]))
        assert same(batch.target("age"), AGES)


def test_batches_move_maps_with_the_images() -> None:
    """A map equal to the image's grey values stays equal where the nearest pixel is exact: whole shifts."""
    pixels = torch.randint(1, 200, (5, 1, 9, 11), dtype=torch.uint8)
    floats = torch.where(pixels[:, 0] > 100, pixels[:, 0].float(), torch.nan)
    images = Images(pixels, torch.zeros(5).long(), ("a",), {"mask": pixels[:, 0], "depth": floats, "age": AGES[:5]})
    batch = next(iter(Batches(images, 5, 0, Augment(shift=3)).epoch(0)))
    grey, mask, depth = (batch.images[:, 0] * 255).round().long(), batch.target("mask"), batch.target("depth")
    assert (mask == -1).any()
    assert torch.equal(torch.where(mask == -1, 0, mask), grey)
    assert torch.equal(depth.isnan(), grey <= 100)
    assert torch.equal(depth.nan_to_num(), torch.where(grey > 100, grey, 0).float())
    turned = next(iter(Batches(images, 5, 0, Augment(rotate=30.0, elastic=1.0)).epoch(0)))
    assert set(turned.target("mask").unique().tolist()) <= {-1, *pixels.unique().tolist()}
    assert not torch.equal(turned.target("mask"), mask)


def test_means_over_maps_that_moved_count_what_is_known_after_the_move() -> None:
    """One map has its only known pixel at the edge, and loses it."""
    masks = torch.full((2, 4, 4), -1)
    masks[0, 0, 0], masks[1, 1:3, 1:3] = 1, 1
    batch = Batch(torch.rand(2, 1, 4, 4), {"mask": masks})
    moved = Augment(shift=2).moved(batch, torch.tensor([[0.0, 0.0], [-1.0, -1.0], [-1.0, -1.0]]))
    assert is_known(moved.target("mask")).tolist() == [False, True]
    assert moved.mean(torch.tensor([5.0, 3.0]), "mask") == 3.0
    assert moved.count("mask") == 1


def test_identity_of_data_includes_targets() -> None:
    before = data_identity(Splits(images_with(age=AGES)))
    assert differences(before, data_identity(Splits(images_with(age=AGES)))) == []
    (change,) = differences(before, data_identity(Splits(images_with(age=AGES + 1))))
    assert change == "of the 6 training images their targets"


def test_encode_writes_targets_and_predictions_of_all_heads(tmp_path: Path) -> None:
    model = Autoencoder(ConvEncoder(1, (2,)), heads={"a": Regressor((2, 2, 2), "age"), "c": Classifier((2, 2, 2), 3)})
    encode(model, images_with(age=AGES), tmp_path, ("labels", "predictions"), "npy")
    assert same(torch.from_numpy(np.load(tmp_path / "targets.age.npy")), AGES)
    assert np.load(tmp_path / "predictions.a.npy").shape == (6, 1)
    assert np.load(tmp_path / "predictions.c.npy").shape == (6, 3)


# CSV files


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 images of two classes, 6 high and 8 wide, whose grey value is their number."""
    for i in range(12):
        save_image(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", size=(8, 6), colour=i)
    return tmp_path / "images"


def by_number(images: Any) -> dict[int, dict[str, Any]]:
    """The targets of each image by its number."""
    batch = images.batch(slice(None))
    numbers = (batch.images[:, 0, 0, 0] * 255).round().long().tolist()
    return {n: {name: target[i] for name, target in batch.targets.items()} for i, n in enumerate(numbers)}


@pytest.mark.parametrize("workers", [None, 1])
def test_read_folder_reads_targets_by_what_the_cells_hold(folder: Path, workers: int | None) -> None:
    rows = [["age", "file", "town", "count"]]
    rows += [
        [f"{i}.5" if i else "", f"{'ab'[i % 2]}/{i}.png", ["x", "y", ""][i % 3], str(10 * (i % 3))] for i in range(10)
    ]
    source = sources.read_folder(folder, workers=workers, targets=write_csv(folder.parent / "targets.csv", rows))
    if isinstance(source.train, Streamed):
        assert [source.train.items[i][1] for i in range(len(source.train))] == source.train.labels.tolist()
    assert source.train.targets["town"].classes == ("x", "y")
    assert source.train.targets["count"].classes == ("0", "10", "20")
    found = by_number(source.train) | by_number(source.test())
    assert len(found) == 12
    for i, targets in found.items():
        assert targets["label"] == i % 2
        known = i < 10
        assert same(targets["age"], torch.tensor(i + 0.5 if known and i else math.nan))
        assert targets["town"] == ([0, 1, -1][i % 3] if known else -1)
        assert targets["count"] == (i % 3 if known else -1)


def test_read_folder_takes_images_without_folders_and_classes_of_the_file(tmp_path: Path) -> None:
    rows = [["filename", "class"]]
    for i in range(12):
        save_image(tmp_path / "flat" / f"{i}.png", colour=i)
        rows.append([f"{i}.png", ["cat", "dog", ""][i % 3]])
    targets = write_csv(tmp_path / "flat" / "targets.csv", rows)
    source = sources.read_folder(tmp_path / "flat", targets=targets)
    assert source.train.classes == ("cat", "dog")
    found = by_number(source.train) | by_number(source.test())
    assert {i: int(targets["label"]) for i, targets in found.items()} == {i: [0, 1, -1][i % 3] for i in range(12)}


def test_read_folder_reads_maps_of_classes(folder: Path) -> None:
    """Masks of 0 and 255, resized as the images are: the upper half of image i is 255, if i is even."""
    rows = [["file", "mask"]]
    for i in range(12):
        mask = Image.new("L", (16, 12))
        if i % 2 == 0:
            mask.paste(255, (0, 0, 16, 6))
        (folder.parent / "masks").mkdir(exist_ok=True)
        mask.save(folder.parent / "masks" / f"{i}.png")
        rows.append([f"{i}.png", f"masks/{i}.png" if i else ""])
    targets = write_csv(folder.parent / "targets.csv", rows)
    source = sources.read_folder(folder, GivenForm((4, 6)), targets=targets)
    assert source.train.shape == (1, 4, 6)
    assert source.train.targets["mask"].classes == ("0", "255")
    for i, found in (by_number(source.train) | by_number(source.test())).items():
        upper = torch.arange(4)[:, None].expand(4, 6) < 2
        expected = torch.where(upper, 1, 0) if i % 2 == 0 else torch.zeros(4, 6)
        assert same(found["mask"], (expected if i else torch.full((4, 6), -1)).long()), i
    with pytest.raises(InputError, match=r"names images, which can't be streamed: leave out Data\.stream"):
        sources.read_folder(folder, workers=1, targets=targets)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (
            [["name", "age"], ["a/0.png", "1"]],
            "must have a column file or filename or .* or path, got name",
        ),
        ([["file", "age"]], "must have a header, and a row for each image"),
        ([["file", "age"], ["a/0.png"]], "line 2 has 1 cells, the header has 2"),
        ([["file", "age", "age"], ["a/0.png", "1", "2"]], "must have different names, got file, age, age"),
        ([["file", "age"], ["a/99.png", "1"]], "row 1: no image 'a/99.png' in"),
        ([["file", "age"], ["a/0.png", "1"], ["0.png", "2"]], "rows 1 and 2 name the same image, '0.png'"),
        ([["file", "label"], ["a/0.png", "0.5"]], "the column label must hold the class of each image"),
        ([["file", "mask"], ["a/0.png", "nowhere.png"]], "nowhere.png"),
    ],
)
def test_read_folder_refuses_a_csv_file_in_one_line(folder: Path, rows: list[list[str]], complaint: str) -> None:
    save_image(folder.parent / "tall.png", size=(8, 30))
    with pytest.raises(InputError, match=complaint) as error:
        sources.read_folder(folder, targets=write_csv(folder.parent / "targets.csv", rows))
    assert "\n" not in str(error.value)


def test_read_folder_refuses_a_name_of_two_images(folder: Path) -> None:
    save_image(folder / "b" / "0.png", size=(8, 6))
    targets = write_csv(folder.parent / "targets.csv", [["file", "age"], ["0.png", "1"]])
    with pytest.raises(InputError, match=r"2 images are named '0\.png': give their folders, too"):
        sources.read_folder(folder, targets=targets)


@pytest.mark.parametrize(("given", "count"), [(0.25, 3), (0.1, 1), (0.001, 1), (0.0, 0), (2, 2), (None, 1), (0, 0)])
def test_data_validation_is_a_count_or_a_fraction(folder: Path, given: Any, count: int) -> None:
    splits = Data("folder", root=folder, validation=given).load()
    assert len(splits.validation or []) == count
    assert len(splits.train) == 11 - count  # one of twelve images is of the test
