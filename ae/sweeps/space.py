"""The search space of a sweep: its parameters, their distributions, and the command line of a point."""

import importlib
import itertools
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from ae.cli import to_args

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Parameter:
    """Search space of one flag: a choice among `values`, or a number in [`low`, `high`]."""

    values: tuple[Any, ...] = ()
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    step: int | float | None = None
    is_integer: bool = False

    def distribution(self) -> "BaseDistribution":
        """Convert to a distribution of Optuna. Choices are encoded as JSON, since Optuna takes no lists."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution([json.dumps(value) for value in self.values])
        high = self._last_step()
        if self.is_integer:
            return distributions.IntDistribution(int(self.low), int(high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, high, self.log, self.step)

    def _last_step(self) -> int | float:
        """Return the largest `low + k * step` up to `high`, computed in decimals."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        last = low + (high - low) // step * step
        return int(last) if self.is_integer else float(last)

    def examples(self) -> tuple[Any, ...]:
        """Return all values, or both ends and the middle of a range."""
        if self.values:
            return self.values
        low, high = (int(self.low), int(self.high)) if self.is_integer else (float(self.low), float(self.high))
        return low, high, (low + high) // 2 if self.is_integer else low / 2 + high / 2

    def decode(self, sample: Any) -> Any:
        """Convert a value of Optuna's distribution to a value of the flag."""
        return json.loads(sample) if self.values else sample


@dataclass(frozen=True)
class Sweep:
    """Content of a sweep file.

    module      of the experiment, such as `experiments.joint`
    parameters  by flag without dashes, such as `model.latent`
    metric      of the validation, such as `val/accuracy`; its last value is the objective
    runs        number of trials; None: no limit
    min_iter    validations before a trial may be pruned; None: no pruning
    eta         reduction factor of successive halving: one in `eta` trials passes each rung
    """

    name: str
    module: str
    method: Literal["grid", "random", "bayes"]
    parameters: dict[str, Parameter]
    metric: str
    maximize: bool
    runs: int | None = None
    min_iter: int | None = None
    eta: int = 3

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of values; the last parameter varies fastest."""
        values = [parameter.values for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values)]

    @property
    def grid_size(self) -> int:
        """Number of points of the grid."""
        return math.prod(len(parameter.values) for parameter in self.parameters.values())

    def arguments(self, point: dict[str, Any]) -> list[str]:
        """Return the command line of a trial at a point."""
        return to_args(self.config_type(), nested(point))

    def config_type(self) -> type:
        """Import the experiment and return its `Config`."""
        return importlib.import_module(self.module).Config


def nested(point: dict[str, Any]) -> dict[str, Any]:
    """Convert values by dotted names to nested dicts."""
    root: dict[str, Any] = {}
    for name, value in point.items():
        *groups, last = name.split(".")
        group = root
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = value
    return root
