"""Running means of losses in training, kept on the device until they are read."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ae.objectives import Loss
from ae.utils import distributed

_MAX_PENDING = 1000  # steps whose values wait on the device


class Meter:
    """Means of losses and norms of gradients since the last restart, images/s, and the first non-finite value.

    `add` does not synchronise with the device; `read` does.
    """

    def __init__(self) -> None:
        self.first_bad: tuple[int, str] | None = None  # (step, name), up to the last read
        self.restart()

    def restart(self) -> None:
        """Reset the means and the clock."""
        self._pending: list[tuple[int, str, Tensor, Tensor | float]] = []  # step, name, mean, count
        self._steps = 0
        self._totals: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._images = 0
        self._since = time.perf_counter()

    def add(self, step: int, loss: Loss, images: int, norms: Mapping[str, Tensor] | None = None) -> None:
        """Add the losses of a step, and norms of gradients; `images` is the size of the batch of all processes."""
        share = images / distributed.world_size()
        values = {name: value.detach() for name, value in {**loss.terms, "loss": loss.total, **(norms or {})}.items()}
        self._pending += [(step, name, value, loss.counts.get(name, share)) for name, value in values.items()]
        self._images += images
        self._steps += 1
        if self._steps % _MAX_PENDING == 0:
            self._fold()

    def read(self) -> dict[str, float]:
        """Return the means of all terms that had an example, and `images_per_second`."""
        state = self.state()
        means = {name: state["totals"][name] / count for name, count in state["counts"].items() if count}
        return means | {"images_per_second": state["images"] / state["seconds"]}

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`, gathered over all processes."""
        seconds = time.perf_counter() - self._since
        self._fold()
        totals, counts = (_summed(distributed.all_gather(values)) for values in (self._totals, self._counts))
        first_bad = [step_and_name for step_and_name in distributed.all_gather(self.first_bad) if step_and_name]
        self.first_bad = min(first_bad, default=None)
        return {"totals": totals, "counts": counts, "images": self._images, "seconds": seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.restart()
        if distributed.is_main():
            self._totals.update(state["totals"])
            self._counts.update(state["counts"])
        self._images = state["images"]
        self._since -= state["seconds"]

    def _fold(self) -> None:
        """Add the pending values to the totals."""
        values = _read([value for _, _, value, _ in self._pending])
        counts = iter(_read([count for *_, count in self._pending if isinstance(count, Tensor)]))
        for (step, name, _, count), value in zip(self._pending, values, strict=True):
            n = next(counts) if isinstance(count, Tensor) else count
            self._totals[name] += value * n
            self._counts[name] += n
            if self.first_bad is None and not math.isfinite(value):
                self.first_bad = step, name
        self._pending.clear()


def _read(scalars: list[Tensor]) -> list[float]:
    """Read scalars from the device in one transfer."""
    return torch.stack([scalar.float() for scalar in scalars]).tolist() if scalars else []


def _summed(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}
