"""Statistics of few runs: intervals, tests of two groups, Holm's correction, power, and effect sizes.

All functions take finite numbers. scipy is imported inside functions, so that `import ae` does not import it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Numbers = Sequence[int | float]
Method = Literal["paired t-test", "Welch's t-test", "exact rank test"]

LEVEL = 0.05  # significance level of all tests, after correction
CONFIDENCE = f"{1 - LEVEL:.0%}".replace("%", " %")  # of the intervals, as text
POWER = 0.8
MAX_SEEDS = 100  # of a power analysis
_ROUNDING = 1e-12  # relative spread that counts as rounding error


@dataclass(frozen=True)
class Difference:
    """The difference of two means, first minus second, and the two-sided test against zero.

    error   standard error; 0 where neither group has any spread
    df      degrees of freedom; None for the exact rank test
    counts  sizes of both groups; twice the number of pairs for a paired test
    stds    standard deviations of both groups; for a paired test, of the differences, and 0
    """

    estimate: float
    error: float
    df: float | None
    p: float
    method: Method
    counts: tuple[int, int]
    stds: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Confidence interval at `1 - LEVEL` by Student's t; None for the exact rank test."""
        if self.df is None:
            return None
        half = _t_quantile(1 - LEVEL / 2, self.df) * self.error
        return float(self.estimate - half), float(self.estimate + half)


def mean_interval(values: Numbers) -> tuple[float, float] | None:
    """Return the confidence interval of a mean at `1 - LEVEL`, by Student's t with n - 1 degrees of freedom.

    None if n < 2.
    """
    if len(values) < 2:
        return None
    scale, (scaled,) = _scaled(values)
    half = _t_quantile(1 - LEVEL / 2, len(values) - 1) * scaled.std(ddof=1) / len(values) ** 0.5
    return float(scale * (scaled.mean() - half)), float(scale * (scaled.mean() + half))


def difference(first: Numbers, second: Numbers) -> Difference | None:
    """Test two means by Welch's t-test for unequal variances (Welch 1947); None where a group has a single value.

    Degrees of freedom follow Welch and Satterthwaite. Where neither group has any spread, t is undefined, and the exact
    rank test is used: two of C(n + m, n) equally likely orders separate the groups.
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
    """Test the differences of pairs, `first[i] - second[i]`, by Student's t-test; None for a single pair.

    Uses `difference` where the differences of pairs have no spread.
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
    """Adjust p-values by Holm's step-down method (Holm 1979), in the order of the input.

    Rejecting those below `LEVEL` controls the family-wise error rate at `LEVEL` under any dependence.
    """
    adjusted, largest, n = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def seeds_needed(measured: Difference, comparisons: int = 1) -> int | None:
    """Compute the additional seeds of each group for a power of 80 %; None: more than 100.

    The smallest N with P(|T| > t(1 - alpha / 2, df)) >= 0.8, if difference and spread are as measured. T follows the
    noncentral t distribution with noncentrality difference / error. Error and df are those of the same test with N more
    runs in each group. alpha = 0.05 / comparisons (Bonferroni). Without any spread, the smallest N at which the exact
    rank test can reach alpha.
    """
    from scipy import stats

    more, alpha = np.arange(1, MAX_SEEDS + 1), LEVEL / comparisons
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
    """Compute omega squared, the share of the variance that a factor explains (Hays 1963), clipped at 0.

    (SSB - (k - 1) MSW) / (SST + MSW) for k groups. Unlike the correlation ratio SSB / SST, it is corrected for chance.
    Groups of a single value are left out, since they have no variance within. None for fewer than two groups, and where
    all values are equal.
    """
    replicated = [group for group in groups if len(group) > 1]
    if len(replicated) < 2:
        return None
    _, samples = _scaled(*replicated)
    pooled = np.concatenate(samples)
    if _std(pooled) == 0:
        return None
    total = float(((pooled - pooled.mean()) ** 2).sum())
    within = float(sum(((sample - sample.mean()) ** 2).sum() for sample in samples))
    mean_square = within / (len(pooled) - len(samples))
    return max(0.0, (total - within - (len(samples) - 1) * mean_square) / (total + mean_square))


def rank_correlation(first: Numbers, second: Numbers) -> tuple[float, float] | None:
    """Compute Spearman's rank correlation and its p-value; None for fewer than three pairs or a constant side."""
    from scipy import stats

    if len(first) < 3 or min(len(set(first)), len(set(second))) < 2:
        return None
    result = stats.spearmanr([float(value) for value in first], [float(value) for value in second])
    return float(result.statistic), float(result.pvalue)


def _scaled(*groups: Numbers) -> tuple[float, list[np.ndarray]]:
    """Divide groups by their largest magnitude, so that no square overflows or underflows; returns scale and groups."""
    scale = max((abs(float(value)) for group in groups for value in group), default=1.0) or 1.0
    return scale, [np.array([float(value) / scale for value in group]) for group in groups]


def _std(scaled: np.ndarray, size: float | None = None) -> float:
    """Compute the sample standard deviation; 0 where it is rounding error of values of magnitude `size`."""
    std, size = float(scaled.std(ddof=1)), size if size is not None else float(abs(scaled).max())
    return std if std > _ROUNDING * size else 0.0


def _welch(stds: tuple[float, float], counts: Any) -> Any:
    """Compute standard error and degrees of freedom of a difference of means; counts are numbers or arrays."""
    (a, b), (n, m) = (std**2 for std in stds), counts
    variance = a / n + b / m
    return variance**0.5, variance**2 / ((a / n) ** 2 / (n - 1) + (b / m) ** 2 / (m - 1))


def _two_sided(t: float, df: float) -> float:
    """Compute the two-sided p-value of Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def _t_quantile(p: float, df: Any) -> Any:
    """Compute a quantile of Student's t distribution; `df` is a number or an array."""
    from scipy.special import stdtrit

    return stdtrit(df, p)
