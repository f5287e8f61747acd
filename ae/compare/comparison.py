"""Which runs differ in what, and which is best."""

import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance, stdev
from typing import Any

from ae.compare.records import Record, canonical, shown
from ae.errors import InputError
from ae.metrics import higher_is_better

_SEED = "recipe.seed"
_FIRST_ASKED = ("test/accuracy", "test/mse", "val/accuracy", "val/mse")
_COSTS = ("code_size", "parameters", "seconds")
_FEW = 8  # values of a field, each of which is shown by itself


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, whatever their seeds. `settings` are its fields that differ between groups."""

    settings: dict[str, Any]
    runs: list[Record]

    def values(self, metric: str) -> list[int | float]:
        """The metric of each run that has it, where it is a number."""
        found = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return [value for value in found if not math.isnan(value)]

    def mean(self, metric: str) -> float | None:
        """The mean over the runs; None where none has it."""
        values = self.values(metric)
        return fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """The standard deviation of a sample; None for fewer than two runs."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    @property
    def name(self) -> str:
        """Its settings in a line, or the name of its run where there are none."""
        return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in self.settings.items()) or (
            self.runs[0].name
        )


@dataclass(frozen=True)
class Effect:
    """How much of a metric's variance over the runs a field explains, alone: read it as a hint, the others vary too.

    by_value  for each value of the field: the value, the mean, its spread over runs, their number; empty where there
              are too many values, and `explained` is then the square of Spearman's rank correlation
    """

    field: str
    explained: float
    by_value: list[tuple[Any, float, float | None, int]]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the best first by `sort`; the configuration's fields that differ, and the metrics shown."""

    groups: list[Group]
    fields: list[str]
    metrics: list[str]
    sort: str

    @property
    def runs(self) -> list[Record]:
        """All runs, in the groups' order."""
        return [run for group in self.groups for run in group.runs]

    def best(self, groups: Sequence[Group] | None = None) -> dict[str, Group]:
        """The group with the best mean of each metric that tells of quality."""
        found = {}
        for metric in self.metrics:
            measured = [group for group in groups or self.groups if group.mean(metric) is not None]
            if measured and "/" in metric:
                found[metric] = min(measured, key=lambda group: _badness(group.mean(metric), metric))
        return found

    def effects(self) -> list[Effect]:
        """What each field that differs does to the metric that is sorted by, the strongest first."""
        measured = [(run.config, run.metrics[self.sort]) for run in self.runs if self.sort in run.metrics]
        measured = [(config, metric) for config, metric in measured if not math.isnan(metric)]
        total = pvariance([metric for _, metric in measured]) if measured else 0.0
        effects = []
        for name in self.fields if total > 0 else []:
            values = {canonical(config.get(name)): config.get(name) for config, _ in measured}
            if len(values) <= _FEW:
                of_value = {key: [m for config, m in measured if canonical(config.get(name)) == key] for key in values}
                by_value = [
                    (values[key], fmean(found), stdev(found) if len(found) > 1 else None, len(found))
                    for key, found in of_value.items()
                ]
                within = sum(pvariance(found) * len(found) for found in of_value.values()) / len(measured)
                by_value.sort(key=lambda row: _order(row[0]))
                effects.append(Effect(name, 1 - within / total, by_value))
            elif all(isinstance(value, int | float) for value in values.values()):
                pairs = [(config[name], metric) for config, metric in measured]
                effects.append(Effect(name, _rank_correlation(pairs) ** 2, []))
        return sorted(effects, key=lambda effect: -effect.explained)


def compare(runs: Sequence[Record], metrics: Sequence[str] = (), sort: str | None = None) -> Comparison:
    """Group runs by configuration and put the best first.

    metrics  what is shown; by default what the test measured, or the validation where some run was not tested, and
             the size of the code, of the model, and the seconds
    sort     the metric that decides; by default the accuracy, or without it the squared error

    Raises InputError for a metric that no run has, and where no two runs have any measured metric in common.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.metrics))
    for metric in (*metrics, *([sort] if sort else [])):
        if metric not in known:
            near = difflib.get_close_matches(metric, known, n=1, cutoff=0.4)
            raise InputError(f"no run has the metric {metric}" + (f"; the nearest is {near[0]}" if near else ""))
    _check_that_something_is_shared(runs)
    chosen = list(metrics) or _default_metrics(runs, known)
    if sort is None:
        sort = next((metric for metric in (*_FIRST_ASKED, *chosen) if metric in chosen), None)
    if sort is None:
        raise InputError("none of these runs has measured anything yet")
    if sort not in chosen:
        chosen.insert(0, sort)
    fields = _differing(runs)
    groups: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        groups[repr([canonical(run.config.get(name)) for name in fields])].append(run)
    made = [Group({name: found[0].config.get(name) for name in fields}, found) for found in groups.values()]
    return Comparison(sorted(made, key=lambda group: _badness(group.mean(sort), sort)), fields, chosen, sort)


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


def _badness(value: float | None, metric: str) -> float:
    if value is None or math.isnan(value):
        return math.inf
    return -value if higher_is_better(metric) else value


def _order(value: Any) -> tuple[bool, int | float, str]:
    """Numbers by size, then the rest by name."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else 0.0, shown(value)


def _rank_correlation(pairs: list[tuple[int | float, int | float]]) -> float:
    """Spearman's, with mean ranks for ties."""
    import numpy as np

    def ranks(values: list[float]) -> Any:
        _, place, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    first, second = (ranks([float(pair[side]) for pair in pairs]) for side in (0, 1))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
