"""State in words whether the best configuration is significantly better than all others."""

from dataclasses import dataclass

from ae.compare.comparison import Comparison
from ae.compare.groups import Kind, Rival
from ae.compare.statistics import CONFIDENCE, MAX_SEEDS, mean_interval
from ae.compare.table import form, number


@dataclass(frozen=True)
class Verdict:
    """A conclusion of one of three kinds, with its evidence in a line.

    settled        the best is significantly better than all others: all adjusted p-values are below `LEVEL`
    not settled    some other configuration may be as good
    can't be told  the best, or the nearest that is not settled, has a single seed
    """

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.capitalize()}: {self.text}"


def verdict(comparison: Comparison) -> Verdict:
    """Compare the best configuration by `comparison.sort` with the nearest one that is not settled.

    Holm's method adjusts the p-values for all comparisons with the best. Of equally good configurations, a best is
    called settled in at most a fraction `LEVEL` of studies.
    """
    metric, best = comparison.sort, comparison.best(comparison.sort)
    if best is None:
        return Verdict("can't be told", f"no run has a number for {metric} yet.")
    rivals = comparison.rivals(metric)
    text = f"best by {metric} is {best.name}, with {number(best, metric)}"
    if not rivals:
        interval = mean_interval(best.values(metric))
        between = f" ({CONFIDENCE} interval {_range(metric, interval)})" if interval is not None else ""
        return Verdict("can't be told", f"{text}{between}; no other configuration has this metric.{_by_test(metric)}")
    undecided = [rival for rival in rivals if rival.kind != "settled"]
    nearest = (undecided or rivals)[0]
    which = "the next" if nearest is rivals[0] else "not the next, but"
    text += f"; {which} {nearest.group.name} has {number(nearest.group, metric)}"
    return Verdict(
        nearest.kind if undecided else "settled", f"{text}: {_reason(nearest, metric, undecided)}{_by_test(metric)}"
    )


def _reason(nearest: Rival, metric: str, undecided: list[Rival]) -> str:
    if nearest.difference is None:
        return "one of the two has a single seed, so the difference can't be tested. Run two or more seeds of each."
    text = f"ahead by {_difference(nearest, metric)}."
    if nearest.kind == "settled":
        return text
    more = nearest.more_seeds
    seeds = f"more than {MAX_SEEDS} more seeds" if more is None else f"{more} more seed{'s' if more > 1 else ''}"
    text += f" {seeds[0].upper()}{seeds[1:]} of each would be needed, if the difference is as measured."
    if len(undecided) > 1:
        text += f" In all, {len(undecided)} configurations are not known to be worse than the best."
    return text


def _difference(rival: Rival, metric: str) -> str:
    """Format the difference with its interval, degrees of freedom and p-value."""
    difference = rival.difference
    assert difference is not None
    interval, p = difference.interval, rival.p or 0.0
    between, freedom = "", ""
    if interval is not None and difference.df is not None:
        low, high = sorted((interval[0] * _sign(difference.estimate), interval[1] * _sign(difference.estimate)))
        between, freedom = (
            f"{CONFIDENCE} interval {_range(metric, (low, high))}, ",
            f" with {_freedom(difference.df)}",
        )
    corrected = f" after Holm's correction for {rival.comparisons} comparisons" if rival.comparisons > 1 else ""
    p_value = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    return f"{form(metric, abs(difference.estimate))} ({between}{difference.method}{freedom}, {p_value}{corrected})"


def _freedom(df: float) -> str:
    return f"{df:.3g} degree{'' if f'{df:.3g}' == '1' else 's'} of freedom"


def _range(metric: str, interval: tuple[float, float]) -> str:
    return f"{form(metric, interval[0])} to {form(metric, interval[1])}"


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def _by_test(metric: str) -> str:
    """Return a warning where the best is selected on test data."""
    if not metric.startswith("test/"):
        return ""
    return " It is selected on test data, so its value there is optimistically biased."
