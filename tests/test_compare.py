"""Runs read from folders and from W&B, grouped, sorted and written down."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f_oneway, spearmanr

from ae import InputError, Run, RunConfig
from ae.compare import Record, compare, read_runs, table, write_csv
from experiments import classify, reconstruct
from experiments.compare import Config, main
from experiments.joint import Config as Joint
from tests.compared import log, make_run
from tests.wandb_server import WandbServer


def record(name: str, metrics: dict[str, int | float], **config: object) -> Record:
    settings = {key.replace("__", "."): value for key, value in config.items()}
    return Record(name, f"runs/{name}", "finished", settings, metrics)


# Reading


def test_reads_a_run_as_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5, "seconds": 3.0}, seed=2, latent=16)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.name, run.where, run.state, run.step) == ("a", str(tmp_path / "a"), "finished", 3)
    assert run.config["experiment"] == "joint"
    assert (run.config["model.latent"], run.config["model.channels"], run.config["recipe.seed"]) == (16, [32, 64], 2)
    best = {"best/val/mse": 0.1 / 3, "best/val/accuracy": 0.75}
    assert run.metrics == {"test/mse": 0.5, "seconds": 3.0, **best}
    assert len(run.history) == 3
    assert run.picture == (tmp_path / "a/reconstructions.png").read_bytes()


def test_finds_runs_in_folders_of_folders_and_by_globs_each_once(tmp_path: Path) -> None:
    for name in ("b", "a", "study/t1", "study/t2"):
        make_run(tmp_path / name, {"test/mse": 0.5})
    (tmp_path / "notes").mkdir()
    found = read_runs([f"{tmp_path}/study/t?", str(tmp_path)])
    assert [run.name for run in found] == ["t1", "t2", "a", "b"]


def test_says_of_each_run_how_far_it_has_come(tmp_path: Path) -> None:
    make_run(tmp_path / "stopped", steps=4)
    make_run(tmp_path / "resumed", {"test/mse": 0.5}, steps=4)
    with Run("joint", RunConfig(resume=tmp_path / "resumed", wandb="disabled")) as run:
        log(run, range(5, 8))
    with Run("joint", RunConfig(dir=tmp_path / "running", wandb="disabled")) as run:
        log(run, range(1, 3))
        found = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: (run.state, run.step) for name, run in found.items()} == {
        "stopped": ("stopped", 4),
        "resumed": ("stopped", 7),
        "running": ("running", 2),
    }
    assert found["resumed"].metrics.keys() == {
        "val/mse",
        "val/accuracy",
        "val/accuracy/3",
        "best/val/mse",
        "best/val/accuracy",
    }
    assert found["resumed"].metrics["val/mse"] == 0.1 / 7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"test/mse": '])
def test_goes_on_without_a_broken_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/summary.json").write_text(content)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.metrics["val/mse"]) == ("stopped", 0.1 / 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"can't read {tmp_path}/a/summary.json, going on without it")


@pytest.mark.parametrize("content", ["nonsense", "5", "{}"])
def test_goes_on_without_a_broken_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/history.jsonl").write_text(f'{{"step": 1}}\n{content}\n')
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.history, run.metrics["test/mse"]) == ("finished", [], 0.5)
    assert "history.jsonl" in capsys.readouterr().err


def test_reads_runs_from_wandb_as_from_folders(server: WandbServer, tmp_path: Path) -> None:
    for name, group in (("a", "g"), ("b", "h")):
        with Run("joint", RunConfig(dir=tmp_path / name, project="p", group=group), Joint()) as run:
            log(run, range(1, 4))
            run.summarise({"test/mse": 0.5, "seconds": 2.0})
    interrupted = Run("joint", RunConfig(dir=tmp_path / "c", project="p", group="g"))
    log(interrupted, range(1, 3))
    interrupted.finish(130)
    local = {here.name: here for here in read_runs([str(tmp_path)])}
    found = read_runs(["wandb:tester/p"])
    assert {there.name for there in found} == {"a", "b", "c"}
    for there in found:
        here = local[there.name]
        assert (there.state, there.step, there.history) == (here.state, here.step, here.history)
        assert there.config == ({"experiment": "joint"} if there.name == "c" else here.config)
        assert there.metrics.items() >= here.metrics.items() - {("val/accuracy/3", 0.5)}
    assert {there.name for there in read_runs(["wandb:tester/p/g"])} == {"a", "c"}


def test_takes_pictures_from_wandb_too(server: WandbServer, tmp_path: Path) -> None:
    from PIL import Image

    from ae.evidence import Evidence

    with Run("joint", RunConfig(dir=tmp_path / "a", project="p")) as run:
        run.summarise({"test/mse": 0.5}, Evidence({"reconstructions": Image.new("RGB", (9, 9))}))
    (run_there,) = read_runs(["wandb:tester/p"])
    assert run_there.picture == (tmp_path / "a/reconstructions.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere", "no run in nowhere, which does not exist"),
        (".", "no run in .: give a run's folder, one that holds such folders, or a glob"),
        ("x*", "no run in x*, which does not exist"),
        ("wandb:alone", "wandb:alone names no project"),
    ],
)
def test_refuses_what_holds_no_run(source: str, complaint: str) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_runs([source])


def test_refuses_a_project_that_wandb_does_not_have(server: WandbServer) -> None:
    with pytest.raises(InputError, match="wandb:tester/nothing"):
        read_runs(["wandb:tester/nothing"])


# Comparing


def test_seeds_of_one_configuration_are_a_group_and_the_best_comes_first(tmp_path: Path) -> None:
    accuracies = {16: [0.9, 0.92, 0.97], 32: [0.95, 0.95], 64: [0.99]}
    for latent, values in accuracies.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / f"{latent}-{seed}", {"test/accuracy": value, "test/mse": 1 / latent}, seed, latent)
    comparison = compare(read_runs([str(tmp_path)]), sort="test/accuracy")
    assert comparison.fields == ["model.latent"]
    assert [group.settings for group in comparison.groups] == [{"model.latent": latent} for latent in (64, 32, 16)]
    last = comparison.groups[-1]
    assert last.mean("test/accuracy") == pytest.approx(np.mean(accuracies[16]))
    assert last.std("test/accuracy") == pytest.approx(np.std(accuracies[16], ddof=1))
    assert comparison.groups[0].std("test/accuracy") is None
    by_error = compare(read_runs([str(tmp_path)]), sort="test/mse")
    assert [group.settings["model.latent"] for group in by_error.groups] == [64, 32, 16]
    assert compare(comparison.runs, ["test/mse"], sort="test/accuracy").metrics == ["test/accuracy", "test/mse"]


def test_only_fields_that_differ_are_shown_and_a_servers_integers_are_no_difference() -> None:
    first = record("a", {"test/mse": 1.0}, experiment="joint", model__latent=4, objective__rate=20.0, run__name="x")
    second = record("b", {"test/mse": 2.0}, experiment="joint", model__latent=8, objective__rate=20, run__name="y")
    third = record("c", {"test/mse": 3.0}, experiment="joint", objective__rate=True, model__latent=8)
    assert compare([first, second]).fields == ["model.latent"]
    assert compare([first, second, third]).fields == ["model.latent", "objective.rate"]
    assert compare([first]).fields == []


def test_runs_without_the_metric_or_with_nan_come_last() -> None:
    runs = [
        record("none", {"test/accuracy": 0.5, "test/psnr": 3.0}, a=1),
        record("nan", {"test/mse": math.nan, "test/psnr": 1.0}, a=2),
        record("good", {"test/mse": 0.5}, a=3),
    ]
    comparison = compare(runs, sort="test/mse")
    assert [run.name for run in comparison.runs] == ["good", "none", "nan"]
    assert "–" in table(comparison)  # noqa: RUF001


def test_effects_are_omega_squared_of_replicated_values() -> None:
    runs = [record(f"{a}{b}", {"test/mse": 10.0 * a + b}, a=a, b=b) for a in (0, 1) for b in (0, 1, 2)]
    strong, weak = compare(runs).effects()
    values = np.array([run.metrics["test/mse"] for run in runs]).reshape(2, 3)
    assert (strong.field, weak.field) == ("a", "b")
    f = f_oneway(*values).statistic
    assert strong.explained == pytest.approx((f - 1) / (f - 1 + 6))  # (k - 1)(F - 1) / ((k - 1)(F - 1) + N)
    assert weak.explained == 0
    assert [(value, mean, count) for value, mean, _, count in strong.by_value] == [(0, 1.0, 3), (1, 11.0, 3)]
    assert strong.by_value[0][2] == pytest.approx(1.0)


def test_effects_of_values_that_occur_once_are_none() -> None:
    rates = [record(str(i), {"val/mse": 0.1 * i}, lr=0.1 * i) for i in range(6)]
    assert compare(rates).effects() == []
    rates.append(record("again", {"val/mse": 0.12}, lr=0.1, recipe__seed=1))
    assert compare(rates).effects() == []  # one value of several measurements has none to be compared with
    same_seed = [record(f"{i}{j}", {"val/mse": 0.1 * i}, lr=0.1 * i, recipe__seed=0) for i in range(6) for j in "ab"]
    assert compare(same_seed).effects() == []


def test_of_many_values_the_rank_correlation_is_shown() -> None:
    rng = np.random.default_rng(0)
    rates, errors = rng.random(30).round(1), rng.random(30).round(1)
    runs = [
        record(str(i), {"test/mse": e}, lr=float(r), i=i) for i, (r, e) in enumerate(zip(rates, errors, strict=True))
    ]
    effects = {effect.field: effect for effect in compare(runs).effects()}
    assert effects["lr"].correlation == pytest.approx(spearmanr(rates, errors).statistic)
    assert effects["lr"].p == pytest.approx(spearmanr(rates, errors).pvalue)
    assert (effects["lr"].count, effects["lr"].explained, effects["lr"].by_value) == (30, None, ())
    same = [record(str(i), {"test/mse": 1.0}, i=i) for i in range(3)]
    assert compare(same).effects() == []


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no run has the metric test/acuracy; the nearest is test/accuracy"):
        compare([record("a", {"test/accuracy": 1.0})], sort="test/acuracy")
    with pytest.raises(InputError, match=r"no run has the metric zzzz$"):
        compare([record("a", {"test/accuracy": 1.0})], metrics=["zzzz"])


def test_runs_that_share_no_metric_are_refused() -> None:
    first = record("a", {"test/accuracy": 1.0, "seconds": 1.0, "val/loss": 1.0})
    second = record("b", {"test/mse": 1.0, "seconds": 1.0, "val/loss": 1.0})
    with pytest.raises(InputError, match="no two of these runs have a metric in common: one has test/accuracy"):
        compare([first, second])
    compare([first, second, record("c", {"test/mse": 1.0})])
    with pytest.raises(InputError, match="none of these runs has measured anything yet"):
        compare([record("a", {}), record("b", {})])


# Writing


def test_the_table_says_what_each_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in enumerate((0.98, 0.99)):
        make_run(tmp_path / f"a{seed}", {"test/accuracy": accuracy, "test/mse": 0.01, "code_size": 3136.0}, seed)
    make_run(tmp_path / "b", {"test/accuracy": 0.97, "test/mse": 0.005, "code_size": 16.0}, latent=16)
    make_run(tmp_path / "c", latent=8, steps=7)
    main(Config(runs=(str(tmp_path),), sort="test/accuracy"))
    header, *rows, said = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    metrics = ["test/accuracy", "test/mse", "val/mse", "val/accuracy"]
    assert header == ["runs", "latent", *metrics, "code_size"]
    assert rows == [
        ["2", "none", "98.50% ± 0.71%", "0.01 ± 0", "–", "–", "3,136"],  # noqa: RUF001
        ["1", "16", "97.00%", "0.005", "–", "–", "16"],  # noqa: RUF001
        ["1 stopped at step 7", "8", "–", "–", "0.01429", "87.50%", "–"],  # noqa: RUF001
    ]
    assert said[0].startswith("Can't be told: best by test/accuracy is latent none")
    main(Config(runs=(str(tmp_path),), sort="test/accuracy", each=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a0", "a1", "b", "c", "Can't"]


def test_experiments_of_different_kinds_can_be_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/accuracy": 0.9, "test/mse": 0.1})
    make_run(tmp_path / "b", {"test/accuracy": 0.8}, config=classify.Config())
    make_run(tmp_path / "c", {"test/mse": 0.2}, config=reconstruct.Config())
    comparison = compare(read_runs([str(tmp_path)]))
    assert len(comparison.groups) == 3
    assert "recipe.lr" in comparison.fields
    assert "–" in table(comparison)  # noqa: RUF001


def test_the_csv_holds_everything(tmp_path: Path) -> None:
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
