"""Whether the best configuration of a comparison is better than the others by more than chance, in words."""

from dataclasses import dataclass

from ae.compare.comparison import Comparison, Kind, Rival
from ae.compare.statistics import MOST_SEEDS, mean_interval
from ae.compare.table import form, number


@dataclass(frozen=True)
class Verdict:
    """A conclusion of one of three kinds, and its reasons in a line.

    settled        the best is better than every other configuration, with all p-values, adjusted, below 5 %
    not settled    some other configuration may be as good
    can't be told  the best, or the nearest that is not settled, has a single seed
    """

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.capitalize()}: {self.text}"


def verdict(comparison: Comparison) -> Verdict:
    """Judge the best configuration by the metric that is sorted by, beside the nearest one that is not settled.

    The p-values are adjusted by Holm's method for all comparisons of the best with the others: in 95 of 100 studies of
    configurations that are equally good, nothing is called settled.
    """
    metric, best = comparison.sort, comparison.best(comparison.sort)
    if best is None:
        return Verdict("can't be told", f"no run has a number for {metric} yet.")
    rivals = comparison.rivals(metric)
    text = f"best by {metric} is {best.name}, with {number(best, metric)}"
    if not rivals:
        interval = mean_interval(best.values(metric))
        between = f" (95 % interval {_range(metric, interval)})" if interval is not None else ""
        return Verdict(
            "can't be told", f"{text}{between}; there is no other configuration that has it.{_by_test(metric)}"
        )
    undecided = [rival for rival in rivals if rival.kind != "settled"]
    nearest = (undecided or rivals)[0]
    which = "the next" if nearest is rivals[0] else "not the next, but"
    text += f"; {which} {nearest.group.name} has {number(nearest.group, metric)}"
    return Verdict(
        nearest.kind if undecided else "settled", f"{text}: {_reason(nearest, metric, undecided)}{_by_test(metric)}"
    )


def _reason(nearest: Rival, metric: str, undecided: list[Rival]) -> str:
    if nearest.measured is None:
        return "one of them has a single seed, so nothing tells it from chance. Run two or more seeds of each."
    text = f"ahead by {_difference(nearest, metric)}."
    if nearest.kind == "settled":
        return text
    more = nearest.more_seeds
    seeds = f"more than {MOST_SEEDS} more seeds" if more is None else f"{more} more seed{'s' if more > 1 else ''}"
    text += f" {seeds[0].upper()}{seeds[1:]} of each would be needed, if the difference is as measured."
    if len(undecided) > 1:
        text += f" In all, {len(undecided)} configurations are not settled to be worse than the best."
    return text


def _difference(rival: Rival, metric: str) -> str:
    """The difference with its interval, degrees of freedom and p-value."""
    measured = rival.measured
    assert measured is not None
    interval, p = measured.interval, rival.p or 0.0
    between, freedom = "", ""
    if interval is not None and measured.df is not None:
        low, high = sorted((interval[0] * _sign(measured.estimate), interval[1] * _sign(measured.estimate)))
        between, freedom = (
            f"95 % interval {_range(metric, (low, high))}, ",
            f" with {_freedom(measured.df)}",
        )
    corrected = f" after Holm's correction for {rival.comparisons} comparisons" if rival.comparisons > 1 else ""
    said = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    return f"{form(metric, abs(measured.estimate))} ({between}{measured.method}{freedom}, {said}{corrected})"


def _freedom(df: float) -> str:
    return f"{df:.3g} degree{'' if f'{df:.3g}' == '1' else 's'} of freedom"


def _range(metric: str, interval: tuple[float, float]) -> str:
    return f"{form(metric, interval[0])} to {form(metric, interval[1])}"


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def _by_test(metric: str) -> str:
    """Return the sentence that warns of a choice by test data."""
    if not metric.startswith("test/"):
        return ""
    return " It is chosen by test data: its own value there is better than what to expect of new images."
