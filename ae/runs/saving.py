"""When the training state of a run is saved, and signals that wait for it."""

import time
from contextlib import AbstractContextManager

from ae.utils.signals import ending


class SavingPolicy:
    """Save the training state every `steps` steps, every `minutes` minutes, and before a signal ends the run."""

    def __init__(self, steps: int | None, minutes: float) -> None:
        self._steps, self._minutes = steps, minutes
        self._saved_at = time.monotonic()

    def saves_after(self, step: int) -> bool:
        """Whether a save is due after `step` steps."""
        return self._steps is not None and step % self._steps == 0

    def saves_now(self) -> bool:
        """Whether a save is due by the clock, or because a signal waits for it."""
        return self.is_asked_to_end or (time.monotonic() - self._saved_at) / 60 >= self._minutes

    def has_saved(self) -> None:
        """Restart the clock, and let a signal that waited end the run."""
        self._saved_at = time.monotonic()
        ending.take_effect()

    def deferring_signals(self) -> AbstractContextManager[None]:
        """Delay signals that end the run to the next save."""
        return ending.deferred()

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a signal that ends the run waits for the next save."""
        return ending.is_asked
