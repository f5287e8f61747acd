"""The effect of each setting on a metric."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ae.compare.statistics import omega_squared, rank_correlation
from ae.compare.values import canonical, format_setting, is_finite

_MAX_CATEGORIES = 8  # a setting with more values is treated as a continuous variable


@dataclass(frozen=True)
class Effect:
    """The marginal effect of one setting on a metric: a hint only, since all other settings vary, too.

    count        measurements, one for each configuration and seed
    explained    omega squared, the explained share of the variance, over values measured at least twice
    correlation  Spearman's rank correlation of a number with more than 8 values, in place of `explained`
    p            p-value of the correlation
    by_value     value, mean, standard deviation and count for each value; empty with a correlation
    """

    field: str
    count: int
    explained: float | None = None
    correlation: float | None = None
    p: float | None = None
    by_value: tuple[tuple[Any, float, float | None, int], ...] = ()

    @property
    def strength(self) -> float:
        """Explained share of the variance, or the squared correlation."""
        return self.explained if self.explained is not None else (self.correlation or 0.0) ** 2


def effect_of(field: str, measurements: Sequence[tuple[dict[str, Any], float]]) -> Effect | None:
    """Estimate the effect of a setting from pairs of settings and metric; None where no estimate exists."""
    values = {canonical(settings[field]): settings[field] for settings, _ in measurements}
    if len(values) > _MAX_CATEGORIES:
        return _correlation(field, [(settings[field], metric) for settings, metric in measurements])
    by_value: dict[str, list[float]] = defaultdict(list)
    for settings, metric in measurements:
        by_value[canonical(settings[field])].append(metric)
    explained = omega_squared(list(by_value.values()))
    if explained is None:
        return None
    rows = [
        (values[key], fmean(metrics), stdev(metrics) if len(metrics) > 1 else None, len(metrics))
        for key, metrics in by_value.items()
    ]
    rows.sort(key=lambda row: _sort_key(row[0]))
    return Effect(field, len(measurements), explained, by_value=tuple(rows))


def _correlation(field: str, pairs: Sequence[tuple[Any, float]]) -> Effect | None:
    if not all(is_finite(value) for value, _ in pairs):
        return None
    result = rank_correlation([value for value, _ in pairs], [metric for _, metric in pairs])
    return result and Effect(field, len(pairs), correlation=result[0], p=result[1])


def _sort_key(value: Any) -> tuple[bool, int | float, str]:
    """Sort numbers by size, then other values by text."""
    return not is_finite(value), value if is_finite(value) else 0.0, format_setting(value)
