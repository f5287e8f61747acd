"""Comparisons as text and as CSV."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ae.compare import Record, compare, read_runs, table, write_csv, write_page
from experiments.compare import Config, main
from experiments.joint import Config as Joint
from tests.helpers.compared import make_run, record


def test_table_shows_settings_states_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in enumerate((0.98, 0.99)):
        make_run(tmp_path / f"a{seed}", {"test/accuracy": accuracy, "test/mse": 0.01, "code_size": 3136.0}, seed)
    make_run(tmp_path / "b", {"test/accuracy": 0.97, "test/mse": 0.005, "code_size": 16.0}, latent=16)
    make_run(tmp_path / "c", latent=8, steps=7)
    main(Config(runs=(str(tmp_path),), sort="test/accuracy"))
    header, *rows, footer = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    metrics = ["test/accuracy", "test/mse", "val/mse", "val/accuracy"]
    assert header == ["runs", "latent", *metrics, "code_size"]
    assert rows == [
        ["2", "none", "98.50% ± 0.71%", "0.01 ± 0", "–", "–", "3,136"],  # noqa: RUF001
        ["1", "16", "97.00%", "0.005", "–", "–", "16"],  # noqa: RUF001
        ["1 stopped at step 7", "8", "–", "–", "0.01429", "87.50%", "–"],  # noqa: RUF001
    ]
    assert footer[0].startswith("Can't be told: best by test/accuracy is latent none")
    main(Config(runs=(str(tmp_path),), sort="test/accuracy", each=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a0", "a1", "b", "c", "Can't"]


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_write_csv_escapes_what_a_spreadsheet_executes(tmp_path: Path, text: str) -> None:
    run = Record(
        text, text, "finished", {text: text, "list": [text], "a": -1.5, "b": "-1e-5", "c": [-1]}, {"val/mse": -2.0}
    )
    write_csv(compare([run]), tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["name", "where", "state", "step", f"'{text}", "list", "a", "b", "c", "val/mse"]
    assert row == [f"'{text}", f"'{text}", "finished", "0", f"'{text}", f"'{text}", "-1.5", "-1e-5", "-1", "-2.0"]


def test_table_escapes_and_truncates_text(tmp_path: Path) -> None:
    name = "a\nb\x1b[31m\u2028\udc80" + "x" * 280
    comparison = compare([record(name, {"val/mse": 1.0}, a=name), record("b", {"val/mse": 2.0}, a=[[{"c": 1}]])])
    lines = table(comparison, each=True).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 150 for line in lines)
    write_csv(comparison, tmp_path / "all.csv")
    write_page(comparison, tmp_path / "page.html")


def test_write_csv_writes_every_field_and_metric(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a b", {"test/mse": 1 / 3}, latent=4),
        make_run(tmp_path / "c", config=replace(Joint(), model=replace(Joint().model, channels=(1, 2)))),
    ]
    write_csv(compare(read_runs([str(run.folder) for run in runs]), sort="best/val/mse"), tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["a b"]["test/mse"]) == 1 / 3
    assert (rows["a b"]["model.latent"], rows["c"]["model.latent"], rows["c"]["model.channels"]) == ("4", "", "1 2")
    assert (rows["c"]["test/mse"], rows["c"]["state"], rows["c"]["step"]) == ("", "stopped", "3")
    assert {"recipe.seed", "experiment", "run.wandb", "val/mse"} <= rows["c"].keys()
    assert json.loads((tmp_path / "c/config.json").read_text())["id"]
