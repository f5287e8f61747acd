"""Images read in sequence: every image once in an epoch, exact resume, any number of workers and processes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from ae import Autoencoder, Batch, Classifier, ConvEncoder, Data, DeconvDecoder, Images, InputError, Joint, Splits
from ae.data.identity import data_identity, differences
from ae.data.sequential import Position, Sequential, _Reader
from tests.helpers.held import held
from tests.helpers.resumed import check_resume
from tests.helpers.shards import rows, write_parquet, write_tars
from tests.helpers.tiers import slow


def write_saved(folder: Path, images: Images, part: str = "train", shards: int = 3) -> Path:
    datasets.DatasetDict({part: rows(images)}).save_to_disk(str(folder))
    return folder


WRITERS = [write_parquet, write_tars, write_saved]


def numbered(digits: Splits) -> Images:
    """230 digits, each with its number in its first two pixels."""
    images = held(digits.train).select(slice(230))
    images.pixels[:, 0, 0, 0] = torch.arange(230) % 256
    return images


def numbers(batch: Batch) -> list[int]:
    return (batch.images[:, 0, 0, 0] * 255).round().long().tolist()


def opened(root: Path, **options: Any) -> Splits:
    return Data("hub", root, stream=True, **{"workers": 0, "buffer": 32, "validation": 20, **options}).load()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("workers", [0, slow(2)])
def test_sequential_shows_every_image_once_in_an_epoch(
    write: Callable[..., Path], workers: int, digits: Splits, tmp_path: Path
) -> None:
    images = numbered(digits)
    data = opened(write(tmp_path / "shards", images), workers=workers)
    assert data.validation is not None
    assert data.test is not None
    assert data.classes == images.classes
    assert (len(data.train), len(data.validation), len(data.test())) == (187, 20, 23)
    batches = data.batches(16, seed=0)
    assert len(batches) == 12
    shown = list(islice(batches.starting_at(0), 24))
    assert [len(batch) for batch in shown[:12]] == [batches.size(step) for step in range(12)] == [16] * 11 + [11]
    for batch in shown:
        assert torch.equal(batch.images, images.batch(torch.tensor(numbers(batch))).images)
        assert torch.equal(batch.labels, images.labels[numbers(batch)])
    epochs = [[n for batch in shown[i : i + 12] for n in numbers(batch)] for i in (0, 12)]
    held_out = [n for part in (data.validation, data.test()) for n in numbers(part.batch(slice(None)))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(set(range(230)) - set(held_out))
    assert sorted(held_out) == list(range(43))  # the first
    assert epochs[0] != epochs[1]
    assert torch.tensor(epochs[0]).diff().ne(1).float().mean() > 0.9


@pytest.mark.parametrize("write", [write if write is write_parquet else slow(write) for write in WRITERS])
def test_sequential_goes_on_at_any_step(write: Callable[..., Path], digits: Splits, tmp_path: Path) -> None:
    """With the state at this step, and without."""
    data = opened(write(tmp_path / "shards", numbered(digits)))
    expected = list(islice(data.batches(16, seed=2).starting_at(0), 26))
    for step in (1, 3, 5, 8, 11, 12, 13):
        before = data.batches(16, seed=2)
        list(islice(before.starting_at(0), step))
        for state in (before.state(), None):
            check_goes_on(data, step, state, expected)


@pytest.mark.parametrize("step", [5, slow(12)])
def test_sequential_goes_on_in_workers(step: int, digits: Splits, tmp_path: Path) -> None:
    data = opened(write_parquet(tmp_path / "shards", numbered(digits)), workers=2)
    batches = data.batches(16, seed=2)
    expected = list(islice(batches.starting_at(0), 26))
    before = data.batches(16, seed=2)
    list(islice(before.starting_at(0), step))
    check_goes_on(data, step, before.state(), expected)


def check_goes_on(data: Splits, step: int, state: dict[str, Any] | None, expected: list[Batch]) -> None:
    rest = islice(data.batches(16, seed=2).starting_at(step, state), len(expected) - step)
    for mine, theirs in zip(rest, expected[step:], strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


def test_sequential_reads_only_from_the_block_on(digits: Splits, tmp_path: Path) -> None:
    data = opened(write_parquet(tmp_path / "shards", numbered(digits), shards=1))
    batches = data.batches(16, seed=0)
    list(islice(batches.starting_at(0), 9))
    state = batches.state()
    assert state is not None
    assert (state["epoch"], state["block"], state["place"]) == (0, 4, 0)
    sequential = data.train
    assert isinstance(sequential, Sequential)
    read = [row for _, block in sequential.blocks(0, Position(**state)) for row in block]
    assert len(read) == 187 - 4 * 32


@pytest.mark.parametrize("processes", [2, 3])
def test_sequential_shards_are_the_batches_of_one_process(processes: int, digits: Splits, tmp_path: Path) -> None:
    train = opened(write_tars(tmp_path / "shards", numbered(digits))).train
    assert isinstance(train, Sequential)

    def read(rank: int, world_size: int) -> list[Batch]:
        reader = _Reader(train, 16, 0, 0, None, (rank, world_size))
        return [batch for *_, batch, _ in islice(reader.read(), 14)]

    alone, shards = read(0, 1), [read(rank, processes) for rank in range(processes)]
    for i, batch in enumerate(alone):
        assert torch.equal(torch.cat([shard[i].images for shard in shards]), batch.images)
        assert torch.equal(torch.cat([shard[i].labels for shard in shards]), batch.labels)


def test_fit_resumes_a_stream_to_the_same_bytes(digits: Splits, tmp_path: Path) -> None:
    data = opened(write_parquet(tmp_path / "shards", numbered(digits)), validation=24)

    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(0)
        heads = {"digit": Classifier((4, 14, 14))}
        return Autoencoder(ConvEncoder(channels=(4,)), DeconvDecoder(channels=(4,)), heads=heads), Joint()

    check_resume(make, data, tmp_path / "runs")


def test_sequential_reads_parts_and_targets(digits: Splits, tmp_path: Path) -> None:
    images, folder = numbered(digits), tmp_path / "shards"
    folder.mkdir()
    parts = {"train": (slice(150), 3), "validation": (slice(150, 190), 2), "test": (slice(190, 230), 1)}
    for part, (index, shards) in parts.items():
        chosen = images.select(index)
        numbers_here = chosen.pixels[:, 0, 0, 0].tolist()
        data = rows(chosen).add_column("side", ["left" if n % 3 else "right" for n in numbers_here])
        data = data.add_column("share", [n / 8 for n in numbers_here])
        for i in range(shards):
            data.shard(shards, i, contiguous=True).to_parquet(folder / f"{part}-{i:05}-of-{shards:05}.parquet")
    read = opened(folder, validation=None, target_columns=("side", "share"))
    assert read.validation is not None
    assert read.test is not None
    assert (len(read.train), len(read.validation), len(read.test())) == (150, 40, 40)
    assert read.validation.targets["side"].values.tolist() == [int(n % 3 == 0) for n in range(150, 190)]
    batch = next(read.batches(16, 0).starting_at(0))
    n = torch.tensor(numbers(batch))
    assert torch.equal(batch.target("side"), (n % 3 == 0).long())
    assert torch.equal(batch.target("share"), n / 8)


def test_sequential_refuses_what_needs_all_images(digits: Splits, tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "shards", numbered(digits))
    for option in ({"limit": 5}, {"labels": 20}, {"labelled_per_batch": 2}, {"binarise": True}):
        with pytest.raises(InputError, match=rf"Data\.{next(iter(option))} is not read of a stream"):
            opened(root, **option)
    train = opened(root).train
    attempts: list[Callable[[], object]] = [
        lambda: train.select(torch.arange(3)),
        lambda: train.batch(slice(3, 5)),
        lambda: next(train.stream([torch.arange(3)])),
        lambda: train.relabelled(train.labels),
    ]
    for choose in attempts:
        with pytest.raises(InputError, match=r"read in sequence.*leave out Data\.stream"):
            choose()
    with pytest.raises(InputError, match=r"Data\.buffer is not read without Data\.stream"):
        Data("hub", root, buffer=3)


def test_sequential_says_that_the_stated_number_of_images_is_wrong(digits: Splits, tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "shards", numbered(digits))
    longer = opened(root, stream_images=300)
    with pytest.raises(InputError, match=r"the stream ended after 180 of 250 training images: set Data\.stream_images"):
        list(islice(longer.batches(16, 0).starting_at(0), 20))
    shorter = opened(root, stream_images=100).batches(16, 0)
    assert len(shorter) == 5  # of 70 images: an epoch may be a part
    assert [len(batch) for batch in islice(shorter.starting_at(0), 6)] == [16, 16, 16, 16, 6, 16]


def test_sequential_names_a_shard_that_cannot_be_read(digits: Splits, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "shards", numbered(digits))
    data = opened(root)
    path = root / "train-00002.tar"
    path.write_bytes(path.read_bytes()[:-12_000])
    for workers in (0, 2):
        train = replace(data.train, workers=workers)  # type: ignore[type-var]
        with pytest.raises(InputError, match=r"shard 2 of the stream can't be read|ended after") as error:
            list(islice(Splits(train).batches(16, 0).starting_at(0), 24))
        assert "\n" not in str(error.value)


def test_identity_of_a_stream_depends_on_its_images(digits: Splits, tmp_path: Path) -> None:
    images = numbered(digits)
    changed = replace(images, pixels=images.pixels.clone())
    changed.pixels[60, 0, 1, 1] ^= 1
    for name, each in (("a", images), ("b", images), ("c", changed)):
        write_parquet(tmp_path / name, each)
    first, same, other = (data_identity(opened(tmp_path / name)) for name in "abc")
    assert differences(first, same) == []
    assert "images themselves" in differences(first, other)[0]
