"""What a training loop measures at every step, kept on the device until it is read."""

import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ae.objectives import Loss
from ae.utils import distributed

_PENDING = 1000  # steps, at most, whose values wait on the device


class Meter:
    """Means of losses and gradient norm since the last restart, images/s, and the first step that was not finite.

    `add` computes nothing and never makes the device wait; `read` does both.
    """

    def __init__(self) -> None:
        self.first_bad: tuple[int, str] | None = None  # (step, name), as of the last read
        self.restart()

    def restart(self) -> None:
        """Begin new means, and a new clock."""
        self._pending: list[tuple[int, str, Tensor, Tensor | float]] = []  # step, name, a mean, over how many images
        self._steps = 0
        self._totals: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._images = 0
        self._since = time.perf_counter()

    def add(self, step: int, loss: Loss, images: int, gradient_norm: Tensor | None = None) -> None:
        """Take in one step's values on so many images, of all processes; the gradient's norm where it was measured."""
        share = images / distributed.world_size()
        values = {name: value.detach() for name, value in {**loss.terms, "loss": loss.total}.items()}
        if gradient_norm is not None:
            values["gradient_norm"] = gradient_norm
        self._pending += [(step, name, value, loss.counts.get(name, share)) for name, value in values.items()]
        self._images += images
        self._steps += 1
        if self._steps % _PENDING == 0:
            self._fold()

    def read(self) -> dict[str, float]:
        """The means, those of terms that no example had left out, and `images_per_second`."""
        state = self.state()
        means = {name: state["totals"][name] / count for name, count in state["counts"].items() if count}
        return means | {"images_per_second": state["images"] / state["seconds"]}

    def state(self) -> dict[str, Any]:
        """State for `restore`, gathered over all processes."""
        seconds = time.perf_counter() - self._since
        self._fold()
        totals, counts = (_added(distributed.gathered(own)) for own in (self._totals, self._counts))
        bad = [step_and_name for step_and_name in distributed.gathered(self.first_bad) if step_and_name is not None]
        self.first_bad = min(bad, default=None)
        return {"totals": totals, "counts": counts, "images": self._images, "seconds": seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.restart()
        if distributed.is_main():
            self._totals.update(state["totals"])
            self._counts.update(state["counts"])
        self._images = state["images"]
        self._since -= state["seconds"]

    def _fold(self) -> None:
        """Add what is pending to the totals."""
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
    """Scalars as numbers, in one transfer."""
    return torch.stack([scalar.float() for scalar in scalars]).tolist() if scalars else []


def _added(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}
