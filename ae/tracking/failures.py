"""Contain failures of W&B: record the lost parts of a run, and wait for a slow server in background threads."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ae.utils.console import say
from ae.utils.errors import one_line


class Failures:
    """The parts of a run that W&B failed to take, with the reasons."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    @contextmanager
    def tolerated(self, part: str) -> Iterator[None]:
        """Record an exception instead of raising it: the run continues without this part."""
        try:
            yield
        except Exception as error:
            self.record(part, error)

    def record(self, part: str, error: Exception) -> None:
        """Record that W&B lacks a part; print a warning the first time."""
        if part not in self.reasons:
            say(f"W&B  failed, the run continues without {part}: {one_line(error)}", error=True)
        self.reasons[part] = one_line(error)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        return f"missing: {', '.join(self.reasons)}"


class Background:
    """Daemon threads that run one after another; an exception is recorded in `failures`."""

    def __init__(self, failures: Failures) -> None:
        self.threads: list[threading.Thread] = []
        self._failures = failures

    def start(self, task: Callable[[], None], part: str) -> None:
        """Run a task after all earlier tasks; synchronous requests of W&B can last as long as its server likes."""
        previous = self.threads[-1:]

        def work() -> None:
            for thread in previous:
                thread.join()
            with self._failures.tolerated(part):
                task()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.threads.append(thread)

    def join(self, deadline: float) -> None:
        """Wait for all tasks until `deadline`, in seconds of `time.monotonic`; record the part `answers` after it."""
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._failures.reasons["answers"] = "the server does not answer"
