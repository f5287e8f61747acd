"""Runs grouped and ranked, with verdict, stars and effects."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import f_oneway, spearmanr, ttest_ind

from ae import InputError
from ae.compare import Comparison, compare, read_runs, table, verdict
from ae.compare.page import render
from ae.compare.table import number
from experiments import classify, reconstruct
from tests.helpers.compared import make_run, record


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


def test_compare_accepts_different_experiments(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {"test/accuracy": 0.9, "test/mse": 0.1})
    make_run(tmp_path / "b", {"test/accuracy": 0.8}, config=classify.Config())
    make_run(tmp_path / "c", {"test/mse": 0.2}, config=reconstruct.Config())
    comparison = compare(read_runs([str(tmp_path)]))
    assert len(comparison.groups) == 3
    assert "recipe.lr" in comparison.fields
    assert "–" in table(comparison)  # noqa: RUF001


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
