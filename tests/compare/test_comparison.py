"""Runs read from folders and W&B, grouped, ranked and written; broken and hostile ones, too."""

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import f_oneway, spearmanr, ttest_ind

from ae import InputError, Run, RunConfig
from ae.compare import Comparison, Record, compare, read_runs, table, verdict, write_csv, write_page
from ae.compare.page import render
from ae.compare.table import number
from experiments import classify, reconstruct
from experiments.compare import Config, main
from experiments.joint import Config as Joint
from tests.helpers.compared import log, make_run
from tests.helpers.wandb_server import WandbServer


def record(name: str, metrics: dict[str, int | float], **config: object) -> Record:
    settings = {key.replace("__", "."): value for key, value in config.items()}
    return Record(name, f"runs/{name}", "finished", settings, metrics)


# Reading


def test_read_runs_reads_every_part_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5, "seconds": 3.0}, seed=2, latent=16)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.name, run.where, run.state, run.step) == ("a", str(tmp_path / "a"), "finished", 3)
    assert run.config["experiment"] == "joint"
    assert (run.config["model.latent"], run.config["model.channels"], run.config["recipe.seed"]) == (16, [32, 64], 2)
    best = {"best/val/mse": 0.1 / 3, "best/val/accuracy": 0.75}
    assert run.metrics == {"test/mse": 0.5, "seconds": 3.0, **best}
    assert len(run.history) == 3
    assert run.picture == (tmp_path / "a/reconstructions.png").read_bytes()


def test_read_runs_finds_each_run_once_in_subfolders_and_globs(tmp_path: Path) -> None:
    for name in ("b", "a", "study/t1", "study/t2"):
        make_run(tmp_path / name, {"test/mse": 0.5})
    (tmp_path / "notes").mkdir()
    runs = read_runs([f"{tmp_path}/study/t?", str(tmp_path)])
    assert [run.name for run in runs] == ["t1", "t2", "a", "b"]


def test_read_runs_reads_state_and_step(tmp_path: Path) -> None:
    make_run(tmp_path / "stopped", steps=4)
    make_run(tmp_path / "resumed", {"test/mse": 0.5}, steps=4)
    with Run("joint", RunConfig(resume=tmp_path / "resumed", wandb="disabled")) as run:
        log(run, range(5, 8))
    with Run("joint", RunConfig(dir=tmp_path / "running", wandb="disabled")) as run:
        log(run, range(1, 3))
        runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: (run.state, run.step) for name, run in runs.items()} == {
        "stopped": ("stopped", 4),
        "resumed": ("stopped", 7),
        "running": ("running", 2),
    }
    assert runs["resumed"].metrics.keys() == {
        "val/mse",
        "val/accuracy",
        "val/accuracy/3",
        "best/val/mse",
        "best/val/accuracy",
    }
    assert runs["resumed"].metrics["val/mse"] == 0.1 / 7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"test/mse": '])
def test_read_runs_omits_a_broken_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/summary.json").write_text(content)
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.metrics["val/mse"]) == ("stopped", 0.1 / 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"can't read {tmp_path}/a/summary.json: ")
    assert line.endswith("; going on without it")


@pytest.mark.parametrize("content", ["nonsense", "5", "{}"])
def test_read_runs_omits_a_broken_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, unhooked: None
) -> None:
    make_run(tmp_path / "a", {"test/mse": 0.5})
    (tmp_path / "a/history.jsonl").write_text(f'{{"step": 1}}\n{content}\n')
    (run,) = read_runs([str(tmp_path / "a")])
    assert (run.state, run.history, run.metrics["test/mse"]) == ("finished", [], 0.5)
    assert "history.jsonl" in capsys.readouterr().err


def write_run(folder: Path, **files: Any) -> Path:
    """Write a run's folder, with some of its files replaced by other JSON or bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "config": {"experiment": "joint", "id": folder.name, "config": {"recipe": {"seed": 0}}},
        "history": {"step": 1, "val/mse": 0.5},
        "summary": {"step": 1, "test/mse": 0.25},
    }
    for name, content in {**whole, **files}.items():
        path = folder / f"{name}.{'jsonl' if name == 'history' else 'json'}"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n")
    return folder


DEEP = b'{"experiment": "x", "id": "a", "config": ' + b'{"a": ' * 500 + b"1" + b"}" * 501
DAMAGES: dict[str, dict[str, Any]] = {
    "config of nothing": {"config": b""},
    "config of zeros": {"config": b"\0" * 100},
    "config that is no object": {"config": b"5"},
    "config without its parts": {"config": {"experiment": "x"}},
    "config whose config is a list": {"config": {"experiment": "x", "id": "a", "config": [1]}},
    "config not in UTF-8": {"config": b'{"experiment": "\xff"}'},
    "config of a huge number": {"config": b'{"experiment": "x", "id": "a", "config": {"a": ' + b"9" * 5000 + b"}}"},
    "config nested deeply": {"config": DEEP},
    "config nested very deeply": {"config": b"[" * 100_000},
}


@pytest.mark.parametrize("files", DAMAGES.values(), ids=DAMAGES)
def test_read_runs_skips_a_run_without_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, Any], unhooked: None
) -> None:
    write_run(tmp_path / "bad", **files)
    with pytest.raises(InputError, match=r"can be read: .*bad/config") as error:
        read_runs([str(tmp_path)])
    assert "\n" not in str(error.value)
    write_run(tmp_path / "good")
    assert [run.name for run in read_runs([str(tmp_path)])] == ["good"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipping a run: ")
    assert f"{tmp_path}/bad/config.json" in line


def test_read_runs_opens_regular_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "history.jsonl", "summary.json", "reconstructions.png"):
        folder = write_run(tmp_path / name)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: (run.state, len(run.history), run.picture) for name, run in runs.items()} == {
        "history.jsonl": ("finished", 0, None),
        "summary.json": ("stopped", 1, None),
        "reconstructions.png": ("finished", 1, None),
    }
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 4
    assert (
        lines[-1]
        == f"skipping a run: can't read {tmp_path}/config.json/config.json: it must be a file, and is a named pipe"
    )


@pytest.mark.parametrize(
    ("files", "metrics"),
    [
        ({"history": {"step": "one", "val/mse": 1}}, {"test/mse": 0.25}),
        ({"history": {"step": None}}, {"test/mse": 0.25}),
        ({"history": b'{"step": NaN}\n'}, {"test/mse": 0.25}),
        ({"history": {"step": 1, "val/mse": "low", "val/psnr": True, "x": [1]}}, {"test/mse": 0.25}),
        ({"summary": {"step": "one", "test/mse": 1}}, {"val/mse": 0.5, "best/val/mse": 0.5}),
        ({"summary": {"step": None, "test/mse": 1}}, {"val/mse": 0.5, "best/val/mse": 0.5}),
        ({"summary": {"test/mse": "1", "test/psnr": True, "test/x": None, "test/y": [1], "test/z": 2}}, {"test/z": 2}),
        ({"summary": b'{"test/mse": 1' + b"0" * 400 + b', "test/z": 2}'}, {"test/z": 2}),
        ({"summary": b"[" * 100_000}, {"val/mse": 0.5, "best/val/mse": 0.5}),
    ],
)
def test_read_runs_takes_numbers_only(
    tmp_path: Path, files: dict[str, Any], metrics: dict[str, float], unhooked: None
) -> None:
    (run,) = read_runs([str(write_run(tmp_path / "a", **files))])
    assert run.metrics == metrics


def test_read_runs_reports_an_invalid_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(tmp_path / "a") / "reconstructions.png").write_bytes(b"GIF89a")
    assert read_runs([str(tmp_path)])[0].picture is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"can't read {tmp_path}/a/reconstructions.png: it is not a PNG; going on without it"


def test_read_runs_reads_the_goal_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, loss in enumerate((3.0, 1.0)):
        summary = {"step": 1, "val/loss": loss, "val/mse": 1 / loss, "test/mse": 1.0}
        config = {"experiment": "joint", "id": str(i), "config": {"lr": i}}
        write_run(tmp_path / f"s/trial-{i}", summary=summary, config=config)
    (tmp_path / "s/sweep.json").write_text(json.dumps({"metric": "val/loss", "maximize": True}))
    comparison = compare(read_runs([str(tmp_path)]))
    assert (comparison.sort, comparison.maximize) == ("val/loss", True)
    assert [run.name for run in comparison.runs] == ["trial-0", "trial-1"]
    by_error = compare(comparison.runs, sort="val/mse")
    assert (by_error.sort, by_error.maximize) == ("val/mse", False)
    write_run(tmp_path / "other")
    assert compare(read_runs([str(tmp_path)])).sort == "val/mse"  # one run is not a trial of the study
    (tmp_path / "s/sweep.json").write_text('{"metric": 5}')
    capsys.readouterr()
    assert compare(read_runs([str(tmp_path / "s")])).sort == "val/mse"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"can't read {tmp_path}/s/sweep.json: it must have metric")


def test_read_runs_from_wandb_equals_from_folders(server: WandbServer, tmp_path: Path) -> None:
    for name, group in (("a", "g"), ("b", "h")):
        with Run("joint", RunConfig(dir=tmp_path / name, project="p", group=group), Joint()) as run:
            log(run, range(1, 4))
            run.summarise({"test/mse": 0.5, "seconds": 2.0})
    interrupted = Run("joint", RunConfig(dir=tmp_path / "c", project="p", group="g"))
    log(interrupted, range(1, 3))
    interrupted.finish(130)
    local = {run.name: run for run in read_runs([str(tmp_path)])}
    remote = read_runs(["wandb:tester/p"])
    assert {run.name for run in remote} == {"a", "b", "c"}
    for there in remote:
        here = local[there.name]
        assert (there.state, there.step, there.history) == (here.state, here.step, here.history)
        assert there.config == ({"experiment": "joint"} if there.name == "c" else here.config)
        assert there.metrics.items() >= here.metrics.items() - {("val/accuracy/3", 0.5)}
    assert {run.name for run in read_runs(["wandb:tester/p/g"])} == {"a", "c"}


def test_read_runs_from_wandb_includes_pictures(server: WandbServer, tmp_path: Path) -> None:
    from PIL import Image

    from ae.tracking.media import Media

    with Run("joint", RunConfig(dir=tmp_path / "a", project="p")) as run:
        run.summarise({"test/mse": 0.5}, Media({"reconstructions": Image.new("RGB", (9, 9))}))
    (remote,) = read_runs(["wandb:tester/p"])
    assert remote.picture == (tmp_path / "a/reconstructions.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no run in nowhere, which does not exist"),
        (".", "no run in .: give a run's folder, one that holds such folders, or a glob"),
        ("x*", "no run in x*, which does not exist"),
        ("wandb:alone", "wandb:alone names no project"),
    ],
)
def test_read_runs_refuses_sources_without_a_run(source: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_runs([source])


def test_read_runs_refuses_an_unknown_wandb_project(server: WandbServer) -> None:
    with pytest.raises(InputError, match="wandb:tester/nothing"):
        read_runs(["wandb:tester/nothing"])


# Comparing


def test_compare_groups_seeds_and_ranks_groups(tmp_path: Path) -> None:
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


def test_compare_shows_differing_fields_and_equates_20_and_20_0() -> None:
    first = record("a", {"test/mse": 1.0}, experiment="joint", model__latent=4, objective__beta=20.0, run__name="x")
    second = record("b", {"test/mse": 2.0}, experiment="joint", model__latent=8, objective__beta=20, run__name="y")
    third = record("c", {"test/mse": 3.0}, experiment="joint", objective__beta=True, model__latent=8)
    assert compare([first, second]).fields == ["model.latent"]
    assert compare([first, second, third]).fields == ["model.latent", "objective.beta"]
    assert compare([first]).fields == []


def test_compare_ranks_by_validation(tmp_path: Path) -> None:
    measured = {"test/accuracy": 0.9, "val/accuracy": 0.8, "best/val/accuracy": 0.85, "val/loss": 1.0}
    assert compare([record("a", measured), record("b", measured, a=1)]).sort == "val/accuracy"
    best_only = {key: value for key, value in measured.items() if key != "val/accuracy"}
    assert compare([record("a", measured), record("b", best_only, a=1)]).sort == "best/val/accuracy"
    assert compare([record("a", {"val/psnr": 1.0}), record("b", {"val/psnr": 2.0}, a=1)]).sort == "val/psnr"
    assert compare([record("a", {"test/accuracy": 0.9, "val/mse": 1.0})]).sort == "val/mse"
    by_test = compare([record("a", {"test/mse": 1.0}), record("b", {"test/mse": 2.0}, a=1)])
    assert by_test.sort == "test/mse"
    assert "It is selected on test data" in verdict(by_test).text
    metrics = compare([record("a", measured), record("b", measured, a=1)]).metrics
    assert metrics == ["val/accuracy", "test/accuracy"]


def groups(**accuracies: list[float]) -> Comparison:
    """Compare configurations with these validation accuracies, one a seed."""
    return compare(
        [
            record(f"{name}{seed}", {"val/accuracy": value}, code=name, recipe__seed=seed)
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ]
    )


def test_verdict_of_two_seeds_with_a_large_spread_is_not_settled() -> None:
    runs = [
        record(f"{name}{seed}", {"val/mse": value}, code=name, recipe__seed=seed)
        for name, values in {"a": [0.2567, 0.3375], "b": [0.10279, 0.10321, 0.103]}.items()
        for seed, value in enumerate(values)
    ]
    conclusion = verdict(compare(runs))
    expected = ttest_ind([0.2567, 0.3375], [0.10279, 0.10321, 0.103], equal_var=False)
    assert conclusion.kind == "not settled"
    assert f"Welch's t-test with 1 degree of freedom, p = {expected.pvalue:.2g}" in conclusion.text


def test_verdict_considers_all_configurations() -> None:
    clear = groups(a=[0.99, 0.991, 0.992], b=[0.9, 0.902, 0.903], c=[0.8, 0.803, 0.804])
    assert verdict(clear).kind == "settled"
    assert "after Holm's correction for 2 comparisons" in verdict(clear).text
    noisy = groups(a=[0.99, 0.991, 0.992], b=[0.9, 0.902, 0.903], c=[0.8, 0.99, 0.7])
    assert verdict(noisy).kind == "not settled"
    assert "not the next, but code c" in verdict(noisy).text
    single = groups(a=[0.99, 0.991, 0.992], b=[0.9, 0.902, 0.903], c=[0.5])
    assert verdict(single).kind == "can't be told"
    assert verdict(groups(a=[0.5, 0.6, 0.7])).kind == "can't be told"
    repeated = [record(f"{n}{i}", {"val/mse": n + i / 99}, n=n, recipe__seed=0) for n in (1.0, 2.0) for i in (0, 1)]
    assert verdict(compare(repeated)).kind == "can't be told"  # a single seed, repeated


def test_stars_mark_configurations_not_significantly_worse() -> None:
    comparison = groups(a=[0.99, 0.991, 0.992], b=[0.989, 0.99, 0.995], c=[0.5, 0.51, 0.53], d=[0.7])
    assert [group.name for group in comparison.stars["val/accuracy"]] == ["code b", "code a"]
    assert [line.count("*") for line in table(comparison).splitlines()] == [0, 1, 1, 0, 0]
    assert groups(a=[0.9], b=[0.8], c=[0.7, 0.71]).stars == {}
    equal = groups(a=[0.114 + 3.1e-6, 0.114 - 3.1e-6], b=[0.114 + 8e-8, 0.114 - 8e-8])
    assert len(equal.stars["val/accuracy"]) == 2


def test_number_counts_runs_with_the_metric() -> None:
    values = (0.5, math.nan, math.inf, 10**400, 0.7)
    runs = [record(str(i), {"val/mse": value}, recipe__seed=i) for i, value in enumerate(values)]
    comparison = compare(runs)
    assert number(comparison.groups[0], "val/mse") == "0.6 ± 0.14 (2 of 5)"
    assert number(
        compare([record("a", {"val/mse": 0.1140001}), record("b", {"val/mse": 0.1140063})]).groups[0], "val/mse"
    ) == ("0.1140032 ± 4.4e-06")
    for write in (table, render):
        write(comparison)


def test_compare_ranks_missing_and_nan_last() -> None:
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
    assert compare(rates).effects() == []  # a single replicated value has nothing to be compared with
    same_seed = [record(f"{i}{j}", {"val/mse": 0.1 * i}, lr=0.1 * i, recipe__seed=0) for i in range(6) for j in "ab"]
    assert compare(same_seed).effects() == []


def test_effects_of_many_values_are_rank_correlations() -> None:
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


def test_compare_suggests_the_nearest_metric() -> None:
    with pytest.raises(InputError, match="no run has the metric test/acuracy; the nearest is test/accuracy"):
        compare([record("a", {"test/accuracy": 1.0})], sort="test/acuracy")
    with pytest.raises(InputError, match=r"no run has the metric zzzz$"):
        compare([record("a", {"test/accuracy": 1.0})], metrics=["zzzz"])


def test_compare_refuses_runs_without_a_shared_metric() -> None:
    first = record("a", {"test/accuracy": 1.0, "seconds": 1.0, "val/loss": 1.0})
    second = record("b", {"test/mse": 1.0, "seconds": 1.0, "val/loss": 1.0})
    with pytest.raises(InputError, match="no two of these runs have a metric in common: one has test/accuracy"):
        compare([first, second])
    compare([first, second, record("c", {"test/mse": 1.0})])
    with pytest.raises(InputError, match="none of these runs has measured anything yet"):
        compare([record("a", {}), record("b", {})])


# Writing


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


def test_compare_accepts_different_experiments(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/accuracy": 0.9, "test/mse": 0.1})
    make_run(tmp_path / "b", {"test/accuracy": 0.8}, config=classify.Config())
    make_run(tmp_path / "c", {"test/mse": 0.2}, config=reconstruct.Config())
    comparison = compare(read_runs([str(tmp_path)]))
    assert len(comparison.groups) == 3
    assert "recipe.lr" in comparison.fields
    assert "–" in table(comparison)  # noqa: RUF001


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


def test_compare_needs_a_run() -> None:
    with pytest.raises(InputError, match="there is no run to compare"):
        compare([])


def test_compare_accepts_settings_of_different_types() -> None:
    values: list[Any] = [1, 1.0, True, None, "1", [1], {}, math.nan, math.inf, 10**400]
    runs = [record(str(i), {"val/mse": 1.0 + i}, model=value) for i, value in enumerate(values)]
    runs.append(record("nested", {"val/mse": 0.5}, model__latent=3))
    comparison = compare(runs)
    assert len(comparison.groups) == 10  # 1 equals 1.0, and None equals missing
    assert "nan" in table(comparison)
    render(comparison)


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
