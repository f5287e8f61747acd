"""Statistics of few runs, against scipy and by simulation."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from ae.compare import Comparison, Group
from ae.compare.statistics import (
    Difference,
    difference,
    holm,
    mean_interval,
    omega_squared,
    paired_difference,
    rank_correlation,
    seeds_needed,
)
from tests.helpers.compared import record
from tests.helpers.tiers import slow


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e140])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 5), (7, 3)])
def test_difference_is_scipys_welch(n: int, m: int, scale: float) -> None:
    rng = np.random.default_rng(n + m)
    x, y = rng.normal(0, 1, n), rng.normal(1, 3, m)
    result, expected = difference(list(x * scale), list(y * scale)), stats.ttest_ind(x, y, equal_var=False)
    assert result is not None
    assert result.interval is not None
    assert (result.p, result.df) == pytest.approx((expected.pvalue, expected.df))
    interval = expected.confidence_interval(0.95)
    assert np.array(result.interval) / scale == pytest.approx([interval.low, interval.high])
    assert result.estimate / scale == pytest.approx(x.mean() - y.mean())


def test_paired_difference_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 5), rng.normal(1, 3, 5)
    result, expected = paired_difference(list(x), list(y)), stats.ttest_rel(x, y)
    assert result is not None
    assert result.interval is not None
    assert (result.p, result.df) == pytest.approx((expected.pvalue, expected.df))
    interval = expected.confidence_interval(0.95)
    assert result.interval == pytest.approx((interval.low, interval.high))


def test_mean_interval_is_scipys() -> None:
    values = [1.0, 2.0, 4.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high))
    assert mean_interval([1.0]) is None


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        ([0.9, 0.9], [0.5, 0.5], 1 / 3),  # two of six orders
        ([0.9] * 4, [0.5] * 4, 2 / 70),
        ([0.5, 0.5], [0.5, 0.5], 1.0),
        ([0.1 + 0.2, 0.3], [0.3, 0.3], 1.0),  # differ by rounding
    ],
)
def test_difference_without_spread_is_the_exact_rank_test(first: list[float], second: list[float], p: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = difference(first, second)
    assert result is not None
    assert (result.p, result.df, result.interval, result.method) == (p, None, None, "exact rank test")
    if p < 1:
        same = stats.permutation_test((first, second), lambda x, y: np.mean(x) - np.mean(y), n_resamples=np.inf)
        assert result.p >= same.pvalue - 1e-12  # scipy also counts ties


def test_paired_difference_without_spread_is_unpaired() -> None:
    first, second = [0.9, 0.91], [0.5, 0.51]
    assert paired_difference(first, second) == difference(first, second)


def test_differences_of_a_single_value_are_none() -> None:
    assert difference([1.0], [2.0, 3.0]) is None
    assert difference([1.0, 2.0], [2.0]) is None
    assert paired_difference([1.0], [2.0]) is None


def test_holm_adjusts_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("method", ["paired t-test", "Welch's t-test"])
def test_seeds_needed_reaches_the_power(method: str) -> None:
    """With this many seeds 80 % of simulated tests are significant, and fewer with one seed less."""
    rng = np.random.default_rng(0)
    is_paired = method == "paired t-test"
    measured = Difference(1.0, 0.0, 2.0, 0.5, method, (3, 3), (1.0, 0.0 if is_paired else 1.0))  # type: ignore[arg-type]
    more = seeds_needed(measured)
    assert more is not None
    powers = []
    for n in (3 + more, 2 + more):
        x, y = rng.normal(1, 1, (4000, n)), rng.normal(0, 1, (4000, n))
        p = stats.ttest_1samp(x, 0, axis=1).pvalue if is_paired else stats.ttest_ind(x, y, axis=1).pvalue
        powers.append((p < 0.05).mean())
    assert powers[0] > 0.8 - 0.02 > powers[1] - 0.02
    assert powers[1] < 0.8 + 0.02


def test_seeds_needed_of_zero_small_and_exact_differences() -> None:
    same = difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    close = difference([1.0, 2.0, 3.0], [1.001, 2.0, 3.0])
    exact = difference([0.9, 0.9], [0.5, 0.5])
    assert same is not None
    assert close is not None
    assert exact is not None
    assert seeds_needed(same) is None
    assert seeds_needed(close) is None
    assert seeds_needed(exact) == 2  # two of C(8, 4) = 70 orders
    assert seeds_needed(exact, comparisons=10) == 4  # two of C(12, 6) = 924


def test_omega_squared_is_near_0_of_noise_and_1_without_noise() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(0, 1, 3)) for _ in range(4)]
    f = stats.f_oneway(*groups).statistic
    assert omega_squared(groups) == pytest.approx(max(0.0, 3 * (f - 1) / (3 * (f - 1) + 12)))
    assert omega_squared([[1.0, 1.0], [2.0, 2.0]]) == pytest.approx(1.0)
    noise = [omega_squared([list(rng.normal(0, 1, 2)) for _ in range(6)]) or 0.0 for _ in range(300)]
    assert np.median(noise) < 0.1  # the correlation ratio is 0.45
    assert omega_squared([[1.0], [2.0], [3.0]]) is None
    assert omega_squared([[1.0, 2.0], [3.0]]) is None
    assert omega_squared([[1.0, 1.0], [1.0, 1.0]]) is None


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = list(rng.random(20).round(1)), list(rng.random(20).round(1))
    expected = stats.spearmanr(x, y)
    assert rank_correlation(x, y) == pytest.approx((expected.statistic, expected.pvalue))
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


@pytest.mark.parametrize("draws", [200, slow(10_000)])
@pytest.mark.parametrize("is_paired", [False, True])
def test_intervals_cover_the_true_difference(draws: int, is_paired: bool) -> None:
    """95 % of intervals cover; Welch's coverage with unequal spreads is approximate."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(draws):
        shared = rng.normal(0, 2, 3)
        x = shared + rng.normal(1, 1, 3) if is_paired else rng.normal(1, 1, 3)
        y = shared + rng.normal(0, 1, 3) if is_paired else rng.normal(0, 2, 4)
        result = (paired_difference if is_paired else difference)(list(x), list(y))
        assert result is not None
        assert result.interval is not None
        covered += result.interval[0] <= 1 <= result.interval[1]
    error = math.sqrt(0.05 * 0.95 / draws)
    assert abs(covered / draws - 0.95) < 3 * error + (0.0 if is_paired else 0.01)


@pytest.mark.parametrize("draws", [100, slow(10_000)])
@pytest.mark.parametrize("is_paired", [False, True])
def test_rivals_of_equal_configurations_are_settled_in_5_percent(draws: int, is_paired: bool, unhooked: None) -> None:
    """Among equally good configurations, a best is settled in at most 5 % of studies."""
    rng = np.random.default_rng(1)
    settled = 0
    for _ in range(draws):
        groups = [
            Group(
                {"code": c},
                [
                    record(f"{c}-{s}", {"val/mse": value}, recipe__seed=s if is_paired else f"{c}-{s}")
                    for s, value in enumerate(rng.normal(0.1, 0.01, 3))
                ],
            )
            for c in range(3)
        ]
        rivals = Comparison(groups, ["code"], ["val/mse"], "val/mse", maximize=False).rivals("val/mse")
        settled += all(rival.kind == "settled" for rival in rivals)
    assert settled / draws < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
