"""Which runs differ in what, which is best, and whether that is settled."""

import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal

from ae.compare.records import Record, canonical, is_number, shown
from ae.compare.statistics import (
    LEVEL,
    Difference,
    difference,
    holm,
    omega_squared,
    paired_difference,
    rank_correlation,
    seeds_needed,
)
from ae.evaluation.metrics import higher_is_better
from ae.utils.errors import InputError
from ae.utils.validation import checked_arguments

Kind = Literal["settled", "not settled", "can't be told"]

_SEED = "recipe.seed"
_FIRST_ASKED = ("accuracy", "mse")
_COSTS = ("code_size", "parameters", "seconds")
_FEW = 8  # values of a field, each of which is shown by itself


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, whatever their seeds. `settings` are its fields that differ between groups."""

    settings: dict[str, Any]
    runs: list[Record]

    def by_seed(self, metric: str) -> dict[str, float]:
        """The metric by seed, where it is a finite number. Runs of one seed repeat each other, and are averaged."""
        found: dict[str, list[float]] = defaultdict(list)
        for number, run in enumerate(self.runs):
            if (value := run.value(metric)) is not None:
                seed = run.config.get(_SEED)
                found[f"run {number}" if seed is None else canonical(seed)].append(float(value))
        return {seed: fmean(values) for seed, values in found.items()}

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it, where it is a finite number."""
        return list(self.by_seed(metric).values())

    def count(self, metric: str) -> int:
        """How many of its runs have the metric, as a finite number."""
        return sum(run.value(metric) is not None for run in self.runs)

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds; None where none has it."""
        values = self.values(metric)
        return fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """The standard deviation of a sample; None for fewer than two seeds."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    def minus(self, other: "Group", metric: str) -> Difference | None:
        """The test of the two means: paired by seed where both have the same seeds, else Welch's; None of one seed."""
        first, second = self.by_seed(metric), other.by_seed(metric)
        is_named = not any(seed.startswith("run ") for seed in first)
        if is_named and first.keys() == second.keys():
            return paired_difference(list(first.values()), [second[seed] for seed in first])
        return difference(list(first.values()), list(second.values()))

    @property
    def name(self) -> str:
        """Its settings in a line, or the name of its run where there are none."""
        return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in self.settings.items()) or (
            self.runs[0].name
        )


@dataclass(frozen=True)
class Rival:
    """Another configuration beside the best: whether the best is better by more than chance.

    measured     the best minus this one; None where one of them has a single seed
    p            adjusted by Holm's method for all configurations that the best is compared with
    more_seeds   of each, for a power of 80 %, where it is not settled; None: more than 100
    """

    group: Group
    measured: Difference | None
    p: float | None
    comparisons: int

    @property
    def kind(self) -> Kind:
        """Settled where the adjusted p-value is below 5 %."""
        if self.p is None:
            return "can't be told"
        return "settled" if self.p < LEVEL else "not settled"

    @property
    def more_seeds(self) -> int | None:
        """Seeds of each that a power of 80 % needs, beside those measured; None: more than 100."""
        return None if self.measured is None else seeds_needed(self.measured, self.comparisons)


@dataclass(frozen=True)
class Effect:
    """The effect of one field on a metric over the runs: read it as a hint, the others vary too.

    explained    the share of the variance, omega squared; of the field's values that two or more measurements have
    correlation  Spearman's rank correlation, in its place, of a number with many values; and its p-value
    count        measurements, one a configuration and seed
    by_value     for each value of the field: the value, the mean, its spread, their number; empty for many values
    """

    field: str
    count: int
    explained: float | None = None
    correlation: float | None = None
    p: float | None = None
    by_value: tuple[tuple[Any, float, float | None, int], ...] = ()

    @property
    def strength(self) -> float:
        """By which effects are ordered: the share explained, or the square of the correlation."""
        return self.explained if self.explained is not None else (self.correlation or 0.0) ** 2


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the best first by `sort`; the configuration's fields that differ, and the metrics shown.

    maximize  whether `sort` is best when it is high
    """

    groups: list[Group]
    fields: list[str]
    metrics: list[str]
    sort: str
    maximize: bool

    @property
    def runs(self) -> list[Record]:
        """All runs, in the groups' order."""
        return [run for group in self.groups for run in group.runs]

    def higher_is_better(self, metric: str) -> bool:
        """Whether a metric is best when it is high; of the one sorted by, a sweep may have said."""
        return self.maximize if metric == self.sort else higher_is_better(metric)

    def rivals(self, metric: str) -> list[Rival]:
        """All other configurations that have the metric beside the best of them, the nearest first."""
        ranked = self._ranked(metric)
        if not ranked:
            return []
        first, *others = ranked
        measured = [first.minus(other, metric) for other in others]
        adjusted = iter(holm([found.p for found in measured if found is not None]))
        count = sum(found is not None for found in measured)
        return [
            Rival(other, found, None if found is None else next(adjusted), count)
            for other, found in zip(others, measured, strict=True)
        ]

    def best(self, metric: str) -> Group | None:
        """The configuration with the best mean of a metric; None where none has it."""
        return next(iter(self._ranked(metric)), None)

    @cached_property
    def stars(self) -> dict[str, list[Group]]:
        """For each metric of quality: the best, and each configuration that is not settled to be worse.

        Empty where nothing could be tested, since the best or all others have a single seed; what has a single seed is
        in none. So a star tells "may well be the best", and a star alone in its column "is the best".
        """
        found: dict[str, list[Group]] = {}
        for metric in self.metrics:
            rivals = [rival for rival in self.rivals(metric) if rival.measured is not None] if "/" in metric else []
            best = self.best(metric)
            if rivals and best is not None:
                found[metric] = [best, *(rival.group for rival in rivals if rival.kind == "not settled")]
        return found

    def has_star(self, group: Group, metric: str) -> bool:
        """Whether a configuration is among the `stars` of a metric."""
        return any(group is starred for starred in self.stars.get(metric, []))

    def effects(self) -> list[Effect]:
        """Return the effect of each field that differs on the metric sorted by, the strongest first.

        Of fields whose values occur once each, nothing is said: there is no telling a value's part from chance.
        """
        measured = [(group.settings, value) for group in self.groups for value in group.values(self.sort)]
        effects = [effect for name in self.fields if (effect := _effect(name, measured)) is not None]
        return sorted(effects, key=lambda effect: -effect.strength)

    def _ranked(self, metric: str) -> list[Group]:
        means = [(group.mean(metric), group) for group in self.groups]
        known = [(mean, group) for mean, group in means if mean is not None]
        return [group for _, group in sorted(known, key=lambda pair: pair[0], reverse=self.higher_is_better(metric))]


@checked_arguments
def compare(runs: Sequence[Record], metrics: Sequence[str] = (), sort: str | None = None) -> Comparison:
    """Group runs by configuration and put the best first.

    metrics  what is shown; by default what the test measured, or the validation where some run was not tested, and
             the size of the code, of the model, and the seconds
    sort     the metric that decides; by default that of the sweep whose trials all runs are, or a metric of the
             validation that most runs have: the accuracy, or else the squared error, at the end or at its best. Test
             data decide only where no run was validated

    Raises InputError for a metric that no run has, and where no two runs have any measured metric in common.
    """
    if not runs:
        raise InputError("there is no run to compare")
    known = list(dict.fromkeys(key for run in runs for key in run.metrics))
    for metric in (*metrics, *([sort] if sort else [])):
        if metric not in known:
            near = difflib.get_close_matches(metric, known, n=1, cutoff=0.4)
            raise InputError(f"no run has the metric {metric}" + (f"; the nearest is {near[0]}" if near else ""))
    _check_that_something_is_shared(runs)
    chosen = list(metrics) or _default_metrics(runs, known)
    goals = {run.goal for run in runs}
    goal = goals.pop() if len(goals) == 1 else None
    if sort is None:
        sort = goal[0] if goal is not None and goal[0] in known else _default_sort(runs, known, metrics)
    if sort is None:
        raise InputError("none of these runs has measured anything yet")
    if sort not in chosen:
        chosen.insert(0, sort)
    maximize = goal[1] if goal is not None and goal[0] == sort else higher_is_better(sort)
    fields = _differing(runs)
    groups: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        groups[repr([canonical(run.config.get(name)) for name in fields])].append(run)
    made = [Group({name: found[0].config.get(name) for name in fields}, found) for found in groups.values()]
    ranked = sorted(made, key=lambda group: _badness(group.mean(sort), maximize))
    return Comparison(ranked, fields, chosen, sort, maximize)


def _default_sort(runs: Sequence[Record], known: list[str], asked: Sequence[str]) -> str | None:
    """The metric to sort by where nobody has said: of the validation, of those asked for if there is one, else of the
    test, else any. Of several, the one that most runs have."""
    validated = [
        f"{prefix}{name}"
        for name in dict.fromkeys((*_FIRST_ASKED, *(key.rpartition("/")[2] for key in known)))
        for prefix in ("val/", "best/val/")
        if name != "loss"
    ]
    tested = [*(f"test/{name}" for name in _FIRST_ASKED), *(key for key in known if key.startswith("test/"))]
    rest = [key for key in known if key.startswith(("val/", "best/val/"))]
    for candidates in ([key for key in validated if key in asked], validated, tested, rest, known):
        counts = {key: sum(run.value(key) is not None for run in runs) for key in candidates if key in known}
        if any(counts.values()):
            return max(counts, key=lambda key: counts[key])
    return known[0] if known else None


def _default_metrics(runs: Sequence[Record], known: list[str]) -> list[str]:
    plain = [key for key in known if key.count("/") == 1]
    tested = [key for key in plain if key.startswith("test/")]
    validated = [key for key in plain if key.startswith("val/") and key != "val/loss"]
    are_all_tested = tested and all(run.metrics.keys() & set(tested) for run in runs)
    return [*tested, *([] if are_all_tested else validated), *(key for key in _COSTS if key in known)]


def _check_that_something_is_shared(runs: Sequence[Record]) -> None:
    """A loss is what its objective makes it, and a cost says nothing of quality: neither is a ground to compare on."""
    measured = [{key for key in run.metrics if "/" in key and not key.endswith("/loss")} for run in runs]
    measured = [keys for keys in measured if keys]  # the others have not come so far yet
    if len(measured) > 1 and max(Counter(key for keys in measured for key in keys).values()) == 1:
        some = "; ".join(f"one has {', '.join(sorted(keys)[:3])}, ..." for keys in measured[:2])
        raise InputError(f"no two of these runs have a metric in common: {some}")


def _differing(runs: Sequence[Record]) -> list[str]:
    """The fields that have not the same value in all runs; where a run is kept, and its seed, are no settings."""
    names = dict.fromkeys(key for run in runs for key in run.config)
    return [
        name
        for name in names
        if name != _SEED and not name.startswith("run.") and len({canonical(run.config.get(name)) for run in runs}) > 1
    ]


def _badness(value: float | None, maximize: bool) -> float:
    if value is None:
        return math.inf
    return -value if maximize else value


def _effect(name: str, measured: Sequence[tuple[dict[str, Any], float]]) -> Effect | None:
    """Return the effect of a field; None where it can't be estimated."""
    values = {canonical(settings[name]): settings[name] for settings, _ in measured}
    if len(values) > _FEW:
        pairs = [(settings[name], metric) for settings, metric in measured]
        if not all(is_number(value) for value, _ in pairs):
            return None
        found = rank_correlation([value for value, _ in pairs], [metric for _, metric in pairs])
        return found and Effect(name, len(pairs), correlation=found[0], p=found[1])
    of_value: dict[str, list[float]] = defaultdict(list)
    for settings, metric in measured:
        of_value[canonical(settings[name])].append(metric)
    explained = omega_squared(list(of_value.values()))
    if explained is None:
        return None
    rows = [
        (values[key], fmean(found), stdev(found) if len(found) > 1 else None, len(found))
        for key, found in of_value.items()
    ]
    return Effect(name, len(measured), explained, by_value=tuple(sorted(rows, key=lambda row: _order(row[0]))))


def _order(value: Any) -> tuple[bool, int | float, str]:
    """Numbers by size, then the rest by name."""
    return not is_number(value), value if is_number(value) else 0.0, shown(value)
