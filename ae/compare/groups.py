"""Runs grouped by configuration, and the test of two groups."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from ae.compare.records import Record
from ae.compare.statistics import LEVEL, Difference, difference, paired_difference, seeds_needed
from ae.compare.values import canonical, format_setting

Kind = Literal["settled", "not settled", "can't be told"]

SEED = "recipe.seed"


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed. `settings` are the fields that differ between groups."""

    settings: dict[str, Any]
    runs: list[Record]

    def by_seed(self, metric: str) -> dict[str, float]:
        """Return the finite values of a metric by seed, averaged over runs of the same seed."""
        values: dict[str, list[float]] = defaultdict(list)
        for number, run in enumerate(self.runs):
            if (value := run.value(metric)) is not None:
                seed = run.config.get(SEED)
                values[f"run {number}" if seed is None else canonical(seed)].append(float(value))
        return {seed: fmean(repeated) for seed, repeated in values.items()}

    def values(self, metric: str) -> list[float]:
        """Return the finite values of a metric, one a seed."""
        return list(self.by_seed(metric).values())

    def count(self, metric: str) -> int:
        """Count the runs with a finite value of a metric."""
        return sum(run.value(metric) is not None for run in self.runs)

    def mean(self, metric: str) -> float | None:
        """Return the mean over seeds; None without a value."""
        values = self.values(metric)
        return fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Return the sample standard deviation over seeds; None for fewer than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    def minus(self, group: "Group", metric: str) -> Difference | None:
        """Test the difference of two means: paired where both groups have the same seeds, else Welch's test.

        None where a group has a single seed.
        """
        first, second = self.by_seed(metric), group.by_seed(metric)
        have_seeds = not any(seed.startswith("run ") for seed in first)
        if have_seeds and first.keys() == second.keys():
            return paired_difference(list(first.values()), [second[seed] for seed in first])
        return difference(list(first.values()), list(second.values()))

    @property
    def name(self) -> str:
        """Settings in a line, or the name of the first run where there are none."""
        return ", ".join(
            f"{field.rpartition('.')[2]} {format_setting(value)}" for field, value in self.settings.items()
        ) or (self.runs[0].name)


@dataclass(frozen=True)
class Rival:
    """A configuration compared with the best.

    difference   the best minus this configuration; None where either has a single seed
    p            p-value, adjusted by Holm's method for all comparisons with the best
    comparisons  number of tests with the best
    """

    group: Group
    difference: Difference | None
    p: float | None
    comparisons: int

    @property
    def kind(self) -> Kind:
        """Settled where the adjusted p-value is below `LEVEL`."""
        if self.p is None:
            return "can't be told"
        return "settled" if self.p < LEVEL else "not settled"

    @property
    def more_seeds(self) -> int | None:
        """Additional seeds of each configuration for a power of 80 %; None: more than 100."""
        return None if self.difference is None else seeds_needed(self.difference, self.comparisons)
