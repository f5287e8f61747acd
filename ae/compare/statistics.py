"""Statistics of few runs: intervals, tests of two configurations, corrections, and how many seeds a test needs.

Every function takes finite numbers. scipy is imported where it is used: `import ae` stays free of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Numbers = Sequence[int | float]
Method = Literal["paired t-test", "Welch's t-test", "exact rank test"]

LEVEL = 0.05  # of all tests; intervals are of 95 %
POWER = 0.8
MOST_SEEDS = 100  # that a power calculation looks at
_ROUNDING = 1e-12  # a spread below this share of the values is rounding


@dataclass(frozen=True)
class Difference:
    """The difference of two means, the first minus the second, and the two-sided test that it is zero.

    error   its standard error; 0 where no group has any spread
    df      degrees of freedom; None of the exact rank test, which has none
    counts  runs of the first and of the second group; of pairs, their number twice
    """

    estimate: float
    error: float
    df: float | None
    p: float
    method: Method
    counts: tuple[int, int]
    stds: tuple[float, float]  # of the groups; of pairs, of their differences and 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval by Student's t; None where the spread can't be estimated."""
        if self.df is None:
            return None
        half = _t_quantile(1 - LEVEL / 2, self.df) * self.error
        return float(self.estimate - half), float(self.estimate + half)


def mean_interval(values: Numbers) -> tuple[float, float] | None:
    """The 95 % confidence interval of a mean, by Student's t with n - 1 degrees of freedom; None of a single value."""
    if len(values) < 2:
        return None
    scale, (scaled,) = _scaled(values)
    half = _t_quantile(1 - LEVEL / 2, len(values) - 1) * scaled.std(ddof=1) / len(values) ** 0.5
    return float(scale * (scaled.mean() - half)), float(scale * (scaled.mean() + half))


def difference(first: Numbers, second: Numbers) -> Difference | None:
    """Welch's test of two groups with variances of their own (Welch 1947); None where a group has a single value.

    The degrees of freedom are Welch's and Satterthwaite's. Where neither group has any spread, t is not defined, and
    the rank test is taken: all orders of the values are equally likely, and two of C(n + m, n) separate the groups.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return None
    scale, (x, y) = _scaled(first, second)
    estimate = float(x.mean() - y.mean())
    stds = _std(x), _std(y)
    if not any(stds):
        is_zero = abs(estimate) <= _ROUNDING
        p = 1.0 if is_zero else 2 / math.comb(n + m, n)
        return Difference(0.0 if is_zero else scale * estimate, 0.0, None, p, "exact rank test", (n, m), (0.0, 0.0))
    error, df = _welch(stds, (n, m))
    p = _two_sided(estimate / error, df)
    return Difference(
        scale * estimate, scale * error, df, p, "Welch's t-test", (n, m), (scale * stds[0], scale * stds[1])
    )


def paired_difference(first: Numbers, second: Numbers) -> Difference | None:
    """Student's test of the differences of pairs, `first[i] - second[i]`; None of a single pair.

    Differences without any spread give no estimate of it: then the groups are compared by `difference`.
    """
    n = len(first)
    if n < 2:
        return None
    scale, (x, y) = _scaled(first, second)
    std = _std(x - y, size=1.0)
    if std == 0:
        return difference(first, second)
    estimate, error = float((x - y).mean()), std / n**0.5
    df = float(n - 1)
    p = _two_sided(estimate / error, df)
    return Difference(scale * estimate, scale * error, df, p, "paired t-test", (n, n), (scale * std, 0.0))


def holm(p_values: Numbers) -> list[float]:
    """The p-values adjusted for their number by Holm's step-down method (Holm 1979), in the order given.

    Rejecting those below `LEVEL` keeps the probability of any wrong rejection below it, whatever depends on what.
    """
    adjusted, largest, n = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def seeds_needed(measured: Difference, comparisons: int = 1) -> int | None:
    """How many more seeds of each of two configurations a test needs to tell them apart; None: more than 100.

    The smallest N at which the power reaches 80 %, if difference and spread are as measured:
    P(|T| > t(1 - alpha / 2, df)) with T of the noncentral t distribution, noncentrality difference / error, where
    error and df are those of the same test with N more runs in each group, and alpha = 0.05 / comparisons, Bonferroni's
    level.
    Without any spread, the smallest N at which the exact rank test can reach alpha.
    """
    from scipy import stats

    more, alpha = np.arange(1, MOST_SEEDS + 1), LEVEL / comparisons
    n, m = (count + more for count in measured.counts)
    if measured.estimate == 0:
        return None
    if measured.df is None:
        enough = np.array([2 / math.comb(int(a + b), int(a)) <= alpha for a, b in zip(n, m, strict=True)])
    else:
        scale = max(measured.stds)
        stds = measured.stds[0] / scale, measured.stds[1] / scale
        is_paired = measured.method == "paired t-test"
        error, df = (stds[0] / n**0.5, n - 1) if is_paired else _welch(stds, (n, m))
        shift = np.minimum(abs(measured.estimate) / scale / error, 1e6)  # beyond, the power is 1 for any df
        limit = _t_quantile(1 - alpha / 2, df)
        enough = stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift) >= POWER
    return int(more[enough][0]) if enough.any() else None


def omega_squared(groups: Sequence[Numbers]) -> float | None:
    """The share of the variance that a factor explains, corrected for chance (Hays 1963), at least 0.

    (SSB - (k - 1) MSW) / (SST + MSW) of k groups; the correlation ratio SSB / SST is 1 where each group has one value.
    Groups of one value say nothing of the variance within groups and are left out. None for fewer than two others, and
    where nothing varies.
    """
    kept = [group for group in groups if len(group) > 1]
    if len(kept) < 2:
        return None
    _, parts = _scaled(*kept)
    every = np.concatenate(parts)
    if _std(every) == 0:
        return None
    total = float(((every - every.mean()) ** 2).sum())
    within = float(sum(((part - part.mean()) ** 2).sum() for part in parts))
    mean_square = within / (len(every) - len(parts))
    return max(0.0, (total - within - (len(parts) - 1) * mean_square) / (total + mean_square))


def rank_correlation(first: Numbers, second: Numbers) -> tuple[float, float] | None:
    """Spearman's rank correlation and its p-value; None for fewer than three pairs or where a side never varies."""
    from scipy import stats

    if len(first) < 3 or min(len(set(first)), len(set(second))) < 2:
        return None
    found = stats.spearmanr([float(value) for value in first], [float(value) for value in second])
    return float(found.statistic), float(found.pvalue)


def _scaled(*groups: Numbers) -> tuple[float, list[np.ndarray]]:
    """Groups in units of their largest magnitude, so that no square overflows or vanishes, and that unit."""
    scale = max((abs(float(value)) for group in groups for value in group), default=1.0) or 1.0
    return scale, [np.array([float(value) / scale for value in group]) for group in groups]


def _std(scaled: np.ndarray, size: float | None = None) -> float:
    """The standard deviation of a sample; 0 where it is rounding, of values as large as `size`."""
    std, size = float(scaled.std(ddof=1)), size if size is not None else float(abs(scaled).max())
    return std if std > _ROUNDING * size else 0.0


def _welch(stds: tuple[float, float], counts: Any) -> Any:
    """Standard error and degrees of freedom of the difference of two means; counts are numbers or arrays."""
    (a, b), (n, m) = (std**2 for std in stds), counts
    variance = a / n + b / m
    return variance**0.5, variance**2 / ((a / n) ** 2 / (n - 1) + (b / m) ** 2 / (m - 1))


def _two_sided(t: float, df: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def _t_quantile(share: float, df: Any) -> Any:
    """The quantile of Student's t distribution; degrees of freedom are a number or an array."""
    from scipy.special import stdtrit

    return stdtrit(df, share)
