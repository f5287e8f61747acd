"""Compare runs: the settings that differ, the best configuration, and which others may be as good."""

import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ae.compare.effects import Effect, effect_of
from ae.compare.groups import SEED, Group, Rival
from ae.compare.records import Record
from ae.compare.statistics import holm
from ae.compare.values import canonical
from ae.evaluation.metrics import higher_is_better, is_plain
from ae.utils.errors import InputError
from ae.utils.validation import checked_arguments

_FIRST_ASKED = ("accuracy", "mse")
_COSTS = ("code_size", "parameters", "seconds")


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, ranked by the metric `sort`.

    fields    of the configuration that differ between groups
    metrics   to show
    maximize  whether a higher `sort` is better
    """

    groups: list[Group]
    fields: list[str]
    metrics: list[str]
    sort: str
    maximize: bool

    @property
    def runs(self) -> list[Record]:
        """All runs, in the order of the groups."""
        return [run for group in self.groups for run in group.runs]

    def higher_is_better(self, metric: str) -> bool:
        """Whether a higher value is better; a sweep may have set the direction of `sort`."""
        return self.maximize if metric == self.sort else higher_is_better(metric)

    def rivals(self, metric: str) -> list[Rival]:
        """Compare the best configuration by a metric with each other one, nearest first."""
        ranked = self._ranked(metric)
        if not ranked:
            return []
        best, *groups = ranked
        differences = [best.minus(group, metric) for group in groups]
        tested = [difference for difference in differences if difference is not None]
        adjusted = iter(holm([difference.p for difference in tested]))
        return [
            Rival(group, difference, None if difference is None else next(adjusted), len(tested))
            for group, difference in zip(groups, differences, strict=True)
        ]

    def best(self, metric: str) -> Group | None:
        """Return the configuration with the best mean of a metric; None without a value."""
        return next(iter(self._ranked(metric)), None)

    @cached_property
    def stars(self) -> dict[str, list[Group]]:
        """For each metric of quality, the best configuration and those not significantly worse.

        Only tested configurations have a star: a single seed can't be tested. A metric without any test is missing.
        """
        stars: dict[str, list[Group]] = {}
        for metric in self.metrics:
            tested = [rival for rival in self.rivals(metric) if rival.difference is not None] if "/" in metric else []
            best = self.best(metric)
            if tested and best is not None:
                stars[metric] = [best, *(rival.group for rival in tested if rival.kind == "not settled")]
        return stars

    def has_star(self, group: Group, metric: str) -> bool:
        """Whether a configuration is among the `stars` of a metric."""
        return any(group is starred for starred in self.stars.get(metric, []))

    def effects(self) -> list[Effect]:
        """Estimate the effect of each differing field on `sort`, strongest first.

        A field whose values occur once each is left out, since its effect can't be separated from chance.
        """
        measurements = [(group.settings, value) for group in self.groups for value in group.values(self.sort)]
        effects = [effect for field in self.fields if (effect := effect_of(field, measurements)) is not None]
        return sorted(effects, key=lambda effect: -effect.strength)

    def _ranked(self, metric: str) -> list[Group]:
        """Sort the groups that have a metric, best first."""
        means = [(mean, group) for group in self.groups if (mean := group.mean(metric)) is not None]
        return [group for _, group in sorted(means, key=lambda pair: pair[0], reverse=self.higher_is_better(metric))]


@checked_arguments
def compare(runs: Sequence[Record], metrics: Sequence[str] = (), sort: str | None = None) -> Comparison:
    """Group runs by configuration and rank the groups.

    metrics  to show. Default: those of the test, or of the validation where a run was not tested, with the size of the
             code, the parameters and the seconds
    sort     metric to rank by. Default: that of the sweep if all runs are its trials, else a metric of the validation,
             last or best, that most runs have: accuracy, then MSE. Test metrics are used only without any validation

    Raises InputError for a metric that no run has, and where no two runs share a metric.
    """
    if not runs:
        raise InputError("there is no run to compare")
    known = list(dict.fromkeys(key for run in runs for key in run.metrics))
    for metric in (*metrics, *([sort] if sort else [])):
        if metric not in known:
            near = difflib.get_close_matches(metric, known, n=1, cutoff=0.4)
            raise InputError(f"no run has the metric {metric}" + (f"; the nearest is {near[0]}" if near else ""))
    _check_shared_metric(runs)
    shown = list(metrics) or _default_metrics(runs, known)
    goals = {run.goal for run in runs}
    goal = goals.pop() if len(goals) == 1 else None
    if sort is None:
        sort = goal[0] if goal is not None and goal[0] in known else _default_sort(runs, known, metrics)
    if sort is None:
        raise InputError("none of these runs has measured anything yet")
    if sort not in shown:
        shown.insert(0, sort)
    maximize = goal[1] if goal is not None and goal[0] == sort else higher_is_better(sort)
    fields = _differing_fields(runs)
    by_settings: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        by_settings[repr([canonical(run.config.get(field)) for field in fields])].append(run)
    groups = [Group({field: each[0].config.get(field) for field in fields}, each) for each in by_settings.values()]
    groups.sort(key=lambda group: _sort_key(group.mean(sort), maximize))
    return Comparison(groups, fields, shown, sort, maximize)


def _default_sort(runs: Sequence[Record], known: list[str], asked: Sequence[str]) -> str | None:
    """Choose the metric to rank by: of the validation (first of those `asked` for), else of the test, else any.

    Among several, the metric that most runs have.
    """
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
    plain = [key for key in known if is_plain(key)]
    tested = [key for key in plain if key.startswith("test/")]
    validated = [key for key in plain if key.startswith("val/") and key != "val/loss"]
    are_all_tested = tested and all(run.metrics.keys() & set(tested) for run in runs)
    return [*tested, *([] if are_all_tested else validated), *(key for key in _COSTS if key in known)]


def _check_shared_metric(runs: Sequence[Record]) -> None:
    """Raise InputError unless two runs share a metric of quality: losses depend on the objective, and costs differ."""
    measured = [{key for key in run.metrics if "/" in key and not key.endswith("/loss")} for run in runs]
    measured = [keys for keys in measured if keys]  # without the runs that have no metric yet
    if len(measured) > 1 and max(Counter(key for keys in measured for key in keys).values()) == 1:
        examples = "; ".join(f"one has {', '.join(sorted(keys)[:3])}, ..." for keys in measured[:2])
        raise InputError(f"no two of these runs have a metric in common: {examples}")


def _differing_fields(runs: Sequence[Record]) -> list[str]:
    """List the fields that differ between runs, except the seed and those of the run itself."""
    fields = dict.fromkeys(key for run in runs for key in run.config if key != SEED and not key.startswith("run."))
    return [field for field in fields if len({canonical(run.config.get(field)) for run in runs}) > 1]


def _sort_key(mean: float | None, maximize: bool) -> float:
    """Sort the best first, and groups without a mean last."""
    if mean is None:
        return math.inf
    return -mean if maximize else mean
