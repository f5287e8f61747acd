"""Data sets of Hugging Face: parquet, tar shards, folders; columns; and the same batches as in memory."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ae import Data, Images, InputError, Splits, Streamed, Target
from ae.data import sources
from ae.data.columns import Columns
from ae.data.convert import as_images
from ae.data.decode import GivenForm
from ae.data.identity import data_identity, differences
from ae.utils.seeding import generator
from tests.helpers.held import held
from tests.helpers.shards import rows, write_parquet, write_tars


def parts(digits: Splits) -> tuple[Images, Images]:
    assert digits.test is not None
    return held(digits.train).select(slice(120)), held(digits.test()).select(slice(30))


def write_saved(folder: Path, images: Images, part: str = "train", shards: int = 1) -> Path:
    """Write a part as `save_to_disk` does, in a dictionary of parts."""
    known = dict(datasets.load_from_disk(str(folder))) if folder.exists() else {}
    target = folder.with_name(f"{folder.name}-{part}")
    datasets.DatasetDict({**known, part: rows(images)}).save_to_disk(str(target))
    folder.unlink(missing_ok=True)
    folder.symlink_to(target)
    return folder


@pytest.mark.parametrize("write", [write_parquet, write_tars, write_saved])
def test_read_hub_equals_the_data_set_in_memory(write: Callable[..., Path], digits: Splits, tmp_path: Path) -> None:
    train, test = parts(digits)
    write(tmp_path / "shards", train)
    write(tmp_path / "shards", test, "test", shards=1)
    ours = Data("hub", tmp_path / "shards", validation=20, workers=0).load()
    kept, held_out = _held_out(120, 20)
    expected = Splits(train.select(kept), train.select(held_out))
    assert isinstance(ours.train, Streamed)
    assert ours.classes == train.classes
    for mine, theirs in zip(ours.batches(16, 3).epoch(1), expected.batches(16, 3).epoch(1), strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)
    assert ours.validation is not None
    assert torch.equal(ours.validation.batch(slice(None)).images, held(expected.validation).batch(slice(None)).images)
    assert ours.test is not None
    assert torch.equal(ours.test().batch(slice(None)).images, test.batch(slice(None)).images)


def _held_out(count: int, validation: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.randperm(count, generator=generator("validation"))
    return order[: count - validation], order[count - validation :]


def test_read_hub_reads_targets_by_type(digits: Splits, tmp_path: Path) -> None:
    train, _ = parts(digits)
    data = rows(train)
    columns: dict[str, list[Any]] = {
        "thickness": [None, *[i / 8 for i in range(119)]],
        "side": ["left" if i % 3 else "right" for i in range(120)],
        "count": [i % 5 for i in range(120)],
        "is_round": [bool(i % 2) for i in range(120)],
        "box": [[i, 2.5, 3.0, 4.0] for i in range(120)],
        "name": [f"digit {i}" for i in range(120)],
    }
    for name, values in columns.items():
        data = data.add_column(name, values)
    data.to_parquet(tmp_path / "data.parquet")
    names = ("thickness", "side", "count", "is_round", "box")
    source = sources.read_hub(tmp_path / "data.parquet", columns=Columns(targets=names))
    train_index, _ = sources.source.held_out_for_test(120)
    read = source.train.targets
    assert list(read) == list(names)
    assert torch.equal(read["thickness"].values.isnan(), (train_index == 0))
    assert torch.equal(read["thickness"].values[1:], (train_index[1:] - 1) / 8)
    assert read["side"].classes == ("left", "right")
    assert torch.equal(read["side"].values, (train_index % 3 == 0).long())
    assert torch.equal(read["count"].values, train_index % 5)
    assert read["is_round"].classes == ("False", "True")
    assert torch.equal(read["box"].values[:, 0], train_index.float())
    assert torch.equal(source.train.batch(slice(4)).target("box")[:, 1], torch.full((4,), 2.5))


def test_read_hub_notes_columns_that_are_not_read(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, _ = parts(digits)
    rows(train).add_column("id", list(range(120))).to_parquet(tmp_path / "data.parquet")
    assert dict(sources.read_hub(tmp_path / "data.parquet").train.targets) == {}
    assert "columns of" in (message := capsys.readouterr().err)
    assert "that are not read: id; Data.target_columns takes targets" in message


def test_read_hub_finds_columns_by_type_and_name(digits: Splits, tmp_path: Path) -> None:
    train, _ = parts(digits)
    data = rows(train).rename_columns({"image": "scan", "label": "fine"})
    coarse = data.add_column("coarse", [0] * 120).cast_column("coarse", datasets.ClassLabel(names=["any"]))
    data.to_parquet(tmp_path / "one.parquet")
    coarse.to_parquet(tmp_path / "two.parquet")
    assert torch.equal(_labels(sources.read_hub(tmp_path / "one.parquet")), _labels_of(train))
    with pytest.raises(InputError, match=r"the columns fine, coarse can be the labels: choose with Data\.label_column"):
        sources.read_hub(tmp_path / "two.parquet")
    assert sources.read_hub(tmp_path / "two.parquet", columns=Columns(label="coarse")).train.classes == ("any",)
    with pytest.raises(InputError, match=r"no column fin for Data\.label_column, but scan, fine"):
        sources.read_hub(tmp_path / "one.parquet", columns=Columns(label="fin"))
    with pytest.raises(InputError, match=r"no column x for Data\.image_column, but scan"):
        sources.read_hub(tmp_path / "one.parquet", columns=Columns(image="x"))
    with pytest.raises(InputError, match=r"no column x for Data\.target_columns, but scan"):
        sources.read_hub(tmp_path / "one.parquet", columns=Columns(targets=("x",)))
    data.remove_columns("scan").to_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"none of the columns fine is of images: name it with Data\.image_column"):
        sources.read_hub(tmp_path / "none.parquet")


def _labels(source: Any) -> torch.Tensor:
    return torch.as_tensor(source.train.labels)


def _labels_of(images: Images) -> torch.Tensor:
    train_index, _ = sources.source.held_out_for_test(len(images))
    return images.labels[train_index]


def test_read_hub_decodes_labels_without_images(digits: Splits, tmp_path: Path) -> None:
    train, _ = parts(digits)
    broken = rows(train).cast_column("image", datasets.Image(decode=False))
    cells = [{"bytes": cell["image"]["bytes"] if i < 2 else b"no image", "path": None} for i, cell in enumerate(broken)]
    features = datasets.Features({"image": datasets.Image(), "label": broken.features["label"]})
    table = datasets.Dataset.from_dict({"image": cells, "label": train.labels.tolist()}, features=features)
    table.to_parquet(tmp_path / "data.parquet")
    source = sources.read_hub(tmp_path / "data.parquet", GivenForm((28, 28), 1), workers=0)
    assert torch.equal(_labels(source), _labels_of(train))
    with pytest.raises(InputError, match=r"row 3 is no image"):
        source.train.batch(torch.tensor([2, 3]))


def test_read_hub_reads_colours_sizes_and_deep_images_as_asked(tmp_path: Path) -> None:
    grey = [Image.new("L", (7, 5), 10 * i) for i in range(1200)]
    coloured = [*grey[:701], Image.new("RGB", (7, 5), (255, 0, 0)), *grey[702:]]  # none of those looked at
    for name, images in (("grey", grey), ("colour", coloured)):
        data = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
        data.to_parquet(tmp_path / f"{name}.parquet")
    source = sources.read_hub(tmp_path / "grey.parquet", GivenForm(4), workers=0)
    assert source.train.shape == (1, 4, 4)
    assert source.train.classes == ()
    assert (source.train.labels == -1).all()
    read = sources.read_hub(tmp_path / "colour.parquet", workers=0)
    with pytest.raises(InputError, match=r"row 701 has colours, others are grey: choose with Data\.channels, 1 or 3"):
        list(itertools.chain(read.train.in_order(100), read.test().in_order(100)))
    for channels in (1, 3):
        source = sources.read_hub(tmp_path / "colour.parquet", GivenForm(channels=channels), workers=0)
        assert sum(len(batch) for batch in source.train.in_order(100)) == 1080
        assert source.train.shape == (channels, 5, 7)
    deep = [Image.fromarray(np.full((5, 7), 4095, np.uint16))] * 20
    data = datasets.Dataset.from_dict({"image": deep}).cast_column("image", datasets.Image())
    data.to_parquet(tmp_path / "deep.parquet")
    source = sources.read_hub(tmp_path / "deep.parquet", GivenForm(white=4095), workers=0)
    assert (source.train.batch(slice(3)).images == 1).all()
    with pytest.raises(InputError, match=r"row 0 has pixels of more than 8 bits .*Data\.white"):
        sources.read_hub(tmp_path / "deep.parquet", workers=0).train.batch(slice(1))


def test_read_hub_reads_arrays_and_bytes(digits: Splits, tmp_path: Path) -> None:
    train, _ = parts(digits)
    features = datasets.Features({"pixels": datasets.Array2D((28, 28), "uint8"), "y": datasets.Value("int64")})
    table = {"pixels": train.pixels[:, 0].numpy(), "y": train.labels.tolist()}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "arrays.parquet")
    encoded = rows(train).cast_column("image", datasets.Image(decode=False))
    plain = {"image": [cell["bytes"] for cell in encoded["image"]], "label": train.labels.tolist()}
    datasets.Dataset.from_dict(plain).to_parquet(tmp_path / "bytes.parquet")
    train_index, _ = sources.source.held_out_for_test(len(train))
    for name in ("arrays", "bytes"):
        source = sources.read_hub(tmp_path / f"{name}.parquet", workers=0)
        assert torch.equal(source.train.batch(slice(None)).images, train.select(train_index).batch(slice(None)).images)
        assert torch.equal(_labels(source), _labels_of(train))


def test_as_images_takes_a_data_set_of_hugging_face(digits: Splits) -> None:
    train, _ = parts(digits)
    order = torch.randperm(120)
    data = rows(replace(train, targets={"thickness": Target(torch.rand(120))})).select(order.tolist())
    images = as_images(data)
    assert isinstance(images, Streamed)
    expected = train.select(order)
    assert torch.equal(images.labels, expected.labels)
    assert torch.equal(images.batch(slice(None)).images, expected.batch(slice(None)).images)
    assert images.classes == train.classes


def test_identity_of_a_table_depends_on_its_images(digits: Splits, tmp_path: Path) -> None:
    train, _ = parts(digits)
    changed = replace(train, pixels=train.pixels.clone())
    changed.pixels[60, 0, 0, 0] ^= 1
    for name, images in (("a", train), ("b", train), ("c", changed)):
        write_parquet(tmp_path / name, images)
    first, same, other = (data_identity(Data("hub", tmp_path / name).load()) for name in "abc")
    assert differences(first, same) == []
    assert "images themselves" in differences(first, other)[0]


@pytest.mark.parametrize(
    ("root", "complaint"),
    [
        ("missing/name", "can't open missing/name: no file or folder of this name, and on the Hub: "),
        ("a.csv", r"a\.csv must be a file \.parquet, \.arrow, \.tar, a folder of such files, or ORG/NAME"),
        ("a.parquet", r"can't open .*a\.parquet"),
        ("empty", "can't open .*empty"),
    ],
)
def test_read_hub_refuses_other_roots(
    root: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b"no table")
    with pytest.raises(InputError, match=complaint) as error:
        sources.read_hub(Path(root) if "missing" in root else tmp_path / root)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"data set hub needs Data\.root"):
        Data("hub").load()


@pytest.mark.parametrize("workers", [0, 2])
def test_hold_reads_all_images_into_memory(digits: Splits, tmp_path: Path, workers: int) -> None:
    train, test = parts(digits)
    write_parquet(tmp_path / "shards", train)
    write_parquet(tmp_path / "shards", test, "test", shards=1)
    on_demand = Data("hub", tmp_path / "shards", workers=workers)
    data = replace(on_demand, hold=True).load()
    assert isinstance(data.train, Images)
    assert isinstance(data.validation, Images)
    assert data.test is not None
    assert torch.equal(held(data.test()).pixels, test.pixels)
    expected = on_demand.load()
    for mine, theirs in zip(data.batches(16, 0).epoch(0), expected.batches(16, 0).epoch(0), strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)
    binarised = replace(on_demand, hold=True, binarise=True).load()
    assert set(binarised.train.batch(slice(None)).images.unique().tolist()) > {0, 1}  # at each use
    assert set(held(binarised.validation).pixels.unique().tolist()) == {0, 255}
    with pytest.raises(InputError, match=r"held in memory can be binarised; Data\.hold does so"):
        replace(on_demand, binarise=True).load()
