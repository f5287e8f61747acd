"""A resumed run requires the data that it was started with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ae import (
    Autoencoder,
    Batch,
    ConvEncoder,
    Data,
    ImageSet,
    InputError,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    Streamed,
    fit,
)
from ae.data.identity import data_identity, differences
from ae.runs.folder import read_config
from tests.helpers.held import held


def test_identity_covers_images_labels_and_classes(digits: Splits) -> None:
    identity = data_identity(digits)
    assert differences(identity, data_identity(digits.to("cpu"))) == []
    train = held(digits.train)

    def with_train(images: ImageSet) -> list[str]:
        return differences(identity, data_identity(replace(digits, train=images)))

    pixels = train.pixels.clone()
    pixels[3, 0, 5, 5] ^= 1
    assert with_train(replace(train, pixels=pixels)) == ["of the 256 training images the images themselves"]
    assert with_train(train.relabelled(train.labels.flip(0))) == ["of the 256 training images their labels"]
    assert with_train(train.select(slice(250))) == ["the number of training images 256 -> 250"]
    renamed = replace(train, classes=(*train.classes[:9], "nine"))
    validation = replace(held(digits.validation), classes=renamed.classes)
    renamed_identity = data_identity(replace(digits, train=renamed, validation=validation))
    assert differences(identity, renamed_identity) == [
        "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 -> 0, 1, 2, 3, 4, 5, 6, 7, 8, nine"
    ]
    assert differences(identity, data_identity(replace(digits, validation=None))) == [
        "the number of validation images 64 -> 0"
    ]


def _nothing(model: Autoencoder, batch: Batch, step: int) -> Loss:
    return Loss(model.encoder(batch.images).square().mean(), {})


def _pictures(root: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(12):
            path = root / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), 20 * i + label).save(path)
    return root


def _rename(root: Path) -> None:
    (root / "cat").rename(root / "wolf")


def _add(root: Path) -> None:
    Image.new("L", (28, 28), 7).save(root / "cat/x.png")


def _remove(root: Path) -> None:
    for path in (root / "dog").glob("0[0-4].png"):
        path.unlink()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (_rename, "classes cat, dog -> dog, wolf"),
        (_add, "the number of training images"),
        (_remove, "the number of training images"),
    ],
)
def test_resume_requires_the_same_data(
    tmp_path: Path, stream: bool, change: Callable[[Path], None], difference: str
) -> None:
    root = _pictures(tmp_path / "pictures")
    data = Data("folder", root, validation=4, stream=stream, workers=0 if stream else 2)
    recipe = Recipe(steps=1, batch_size=8, lr=0.01)

    def train(data: Data, **where: Path) -> None:
        with Run("test", RunConfig(**where, wandb="disabled"), {"data": data}) as run:  # type: ignore[arg-type]
            fit(Autoencoder(ConvEncoder(1, (2,))), _nothing, data.load(), recipe, run)

    train(data, dir=tmp_path / "run")
    moved = root.rename(tmp_path / "elsewhere")
    train(replace(data, root=moved), resume=tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    change(moved)
    with pytest.raises(InputError, match=f"was begun on other data: .*{difference}.*--run.fork"):
        train(replace(data, root=moved), resume=tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_identity_of_other_data_sets_is_their_count_and_labels() -> None:
    class Items:
        paths = ("not", "files")

        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.zeros(1, 8, 8), i % 2

    identity = data_identity(Splits(Streamed.of(Items(), ("a", "b"), workers=0)))
    assert identity["training"]["images"] == 6
    assert identity["training"]["content"] is None


def test_relative_root_is_saved_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"data": Data("folder", Path("pictures"))}).finish()
    assert read_config(tmp_path / "run")["config"]["data"]["root"] == str(tmp_path / "pictures")


def test_differences_of_a_damaged_identity_are_short(digits: Splits) -> None:
    damaged = {"classes": [10**280] * 20, "shape": "x" * 999, "training": {"images": 10**280}}
    difference = "; ".join(differences(damaged, data_identity(digits)))
    assert len(difference) < 800
    assert "the images' shape xxxx" in difference
