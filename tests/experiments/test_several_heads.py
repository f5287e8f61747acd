"""A job with several heads on real digits, from the command line: class, stroke thickness, and a mask of the ink."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ae import Images, InputError, Splits, evaluate, load
from ae.cli import cli
from ae.data import sources
from experiments import joint
from experiments.compare import Config as CompareConfig
from experiments.compare import main as compare
from tests.helpers.tiers import slow
from tests.helpers.tracked import history, numbers, table, without_times
from tests.helpers.wandb_server import WandbServer

COUNT = 150


def thickness(ink: Tensor) -> float:
    """The mean width of a stroke: twice the area over the length of the outline, in pixels."""
    padded = F.pad(ink, (1, 1, 1, 1))
    outline = sum((ink & ~padded.roll(shift, axis)[1:-1, 1:-1]).sum() for shift in (1, -1) for axis in (0, 1))
    return float(2 * ink.sum() / outline)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, mnist: Splits) -> Path:
    """Digits as files, and their targets as a CSV file; each target is missing for some."""
    folder = tmp_path_factory.mktemp("digits")
    assert isinstance(mnist.train, Images)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    with open(folder / "targets.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "thickness", "mask"])
        for i in range(COUNT):
            pixels, label = mnist.train.pixels[i, 0], int(mnist.train.labels[i])
            ink, name = pixels > 127, f"{i:03}.png"
            Image.fromarray(pixels.numpy()).save(folder / "images" / name)
            Image.fromarray((ink * 255).byte().numpy()).save(folder / "masks" / name)
            width = f"{thickness(ink):.4f}"
            writer.writerow([name, "" if i % 9 == 1 else label, "" if i % 7 == 1 else width, f"masks/{name}"])
    return folder


def flags(files: Path, run: Path, *more: str) -> list[str]:
    data = f"--data.name folder --data.root {files / 'images'} --data.targets {files / 'targets.csv'}"
    model = "--data.validation 0.2 --model.channels 4 8 --objective.heads thickness 0.5 mask 2"
    recipe = "--recipe.batch-size 32 --recipe.lr 0.01 --recipe.schedule constant --recipe.log-every 1"
    return f"{data} {model} {recipe} --recipe.evaluate-every 2 --run.dir {run}".split() + list(more)


def run_joint(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["joint", *arguments])
    cli(joint.main)


HEADS = {
    "digit/accuracy",
    "digit/cross_entropy",
    "thickness/squared_error",
    "thickness/absolute_error",
    "mask/pixel_cross_entropy",
    "mask/pixel_accuracy",
    "mask/iou",
}


def test_joint_of_several_heads_is_logged_tested_and_compared(
    files: Path,
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_joint(monkeypatch, flags(files, tmp_path / "run", "--recipe.steps", "4"))
    rows = history(tmp_path / "run")
    for split in ("train", "val"):
        assert {f"{split}/{name}" for name in HEADS} <= set(rows[-1])
    assert numbers(server.run.rows) == rows
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {f"test/{name}" for name in HEADS} <= set(summary)
    assert all(server.run.summary[f"test/{name}"] == summary[f"test/{name}"] for name in HEADS)
    assert len(table(server, "test/confusion-digit_table")) == 100
    assert len(table(server, "test/worst_predicted-mask")) == COUNT // 10
    for picture in ("segmentation-mask", "regression-thickness"):
        assert (tmp_path / f"run/{picture}.png").exists()
    printed = capsys.readouterr()
    assert "test/thickness/absolute_error" in printed.out
    assert "digit/accuracy" in printed.err

    source = sources.read_folder(files / "images", targets=files / "targets.csv")
    test = source.test()
    again = evaluate(load(tmp_path / "run"), test)
    assert {name: again[name] for name in HEADS} == pytest.approx({name: summary[f"test/{name}"] for name in HEADS})
    check_thickness(load(tmp_path / "run"), test, summary["test/thickness/absolute_error"])

    compare(CompareConfig(runs=(str(tmp_path / "run"),), html=tmp_path / "page.html"))
    assert re.search(r"test/thickness/absolute_error", capsys.readouterr().out)
    assert '"val/mask/iou"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def check_thickness(model: Any, test: Any, expected: float) -> None:
    """Compute the mean absolute error of the thickness directly."""
    batch = test.batch(slice(None))
    with torch.no_grad():
        predicted = model(batch.images).predictions["thickness"][:, 0]
    target = batch.target("thickness")
    assert target.isnan().any()
    assert (predicted - target).abs().nanmean().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parts", [slow([]), slow(["--recipe.micro-batch", "8"])])
def test_joint_of_several_heads_resumed_equals_an_uninterrupted_run(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    quiet = ["--run.wandb", "disabled", *parts]
    run_joint(monkeypatch, flags(files, tmp_path / "whole", "--recipe.steps", "4", *quiet))
    run_joint(monkeypatch, flags(files, tmp_path / "part", "--recipe.steps", "2", *quiet))
    run_joint(monkeypatch, ["--run.resume", str(tmp_path / "part"), "--recipe.steps", "4"])
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(part[name], tensor) for name, tensor in whole.items())
    assert without_times(history(tmp_path / "whole")) == without_times(history(tmp_path / "part"))


def test_joint_refuses_a_target_with_the_name_of_the_labels_head() -> None:
    images = Images(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"), {"digit": [0, 1, 2, 0]}
    )
    with pytest.raises(InputError, match="digit is the head of the label: name the target digit differently"):
        joint.build(joint.Model(), Splits(images))


def test_joint_builds_a_head_for_each_kind_of_target() -> None:
    """One of each kind; columns of numbers have scales of their own."""
    targets = {"age": [1.0, 2.0, float("nan"), 4.0], "pair": [[0.0, 100.0], [1.0, 300.0]] * 2}
    targets |= {"many": [[0, 1, -1]] * 4, "mask": torch.ones(4, 8, 8, dtype=torch.int16)}
    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.full((4,), -1), (), targets)
    heads = joint.build(joint.Model(channels=(2,)), Splits(images)).heads
    assert {name: type(head).__name__ for name, head in heads.items()} == {
        "age": "Regressor",
        "pair": "Regressor",
        "many": "MultiLabel",
        "mask": "Segmenter",
    }
    assert heads["pair"].mean == (0.5, 200.0)
    assert heads["pair"].std == (0.5, 100.0)
    for name, values, complaint in (
        ("depth", torch.zeros(4, 8, 8), r"joint has no head for a target of shape \[8, 8\]: depth"),
        ("many", torch.full((4, 3), 5), "labels of an image are 0 or 1 each, got 5 in the target many"),
        ("age", torch.full((4,), torch.nan), "the target age is missing for every training image"),
    ):
        wrong = Images(images.pixels, images.labels, (), {name: values})
        with pytest.raises(InputError, match=complaint):
            joint.build(joint.Model(), Splits(wrong))
