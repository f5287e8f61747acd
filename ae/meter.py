"""What a training loop measures at every step, kept on the device until it is read."""

import time

import torch
from torch import Tensor

from ae.objectives import Loss


class Meter:
    """Means of losses and gradient norm since the last restart, images/s, and the first step that was not finite.

    `add` never makes the device wait; `read` does.
    """

    def __init__(self) -> None:
        self.first_bad: tuple[int, str] | None = None  # (step, name), as of the last read
        self.restart()

    def restart(self) -> None:
        """Begin new means, and a new clock."""
        self._names: list[str] = []
        self._images = 0
        self._since = time.perf_counter()

    def add(self, step: int, loss: Loss, gradient_norm: Tensor, images: int) -> None:
        """Take in one step's values."""
        named = {**loss.terms, "loss": loss.total.detach(), "gradient_norm": gradient_norm}
        values = torch.stack([value.float() for value in named.values()])
        counts = torch.full_like(values, images)
        for i, name in enumerate(named):
            if name in loss.counts:
                counts[i] = loss.counts[name]
        if not self._names:
            self._names = list(named)
            self._sums, self._counts = torch.zeros_like(values), torch.zeros_like(values)
            self._bad_steps = torch.full_like(values, -1, dtype=torch.int64)
        self._sums += values * counts
        self._counts += counts
        self._bad_steps.masked_fill_(~values.isfinite() & (self._bad_steps < 0), step)
        self._images += images

    def read(self) -> dict[str, float]:
        """The means, those of terms that no example had left out, and `images_per_second`."""
        seconds = time.perf_counter() - self._since
        bad = [(step, name) for name, step in zip(self._names, self._bad_steps.tolist(), strict=True) if step >= 0]
        self.first_bad = min(bad, key=lambda at: at[0], default=None)
        totals = zip(self._names, self._sums.tolist(), self._counts.tolist(), strict=True)
        return {name: total / n for name, total, n in totals if n} | {"images_per_second": self._images / seconds}
