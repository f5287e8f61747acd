"""Ctrl-C and SIGTERM: what must be whole is not cut in two, and a run that they end saves its state first."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

_GRACE = 4.0  # seconds in which a training comes to a point where it can be saved
_PATIENCE = 5.0  # seconds for what is then to be finished, W&B's last rows for one
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

_is_urgent = False


def is_urgent() -> bool:
    """Whether the process has been asked to end twice, or has taken too long: it should wait for nothing any more."""
    return _is_urgent


def hurry() -> None:
    """Have the process wait for nothing any more: what it would wait for has been given up."""
    global _is_urgent
    _is_urgent = True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait; one that has come takes effect at the end.

    Python gives signals to the main thread alone; elsewhere there is nothing to do.
    """
    if not _in_main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in _DEFAULTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class Ending:
    """As a context manager: Ctrl-C and SIGTERM leave by an exception, KeyboardInterrupt or SystemExit(143).

    Inside `deferred` the first one is only noted in `is_asked`, until `take_effect`: for `_GRACE` seconds at most. A
    second one leaves at once, and so does the first one, again, where what is done on the way out takes longer than
    `_PATIENCE`: `is_urgent` tells. Handlers that somebody else has set are left in their place.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_deferred = self._was_timer = False
        self._timer: threading.Timer | None = None
        self._ours: list[signal.Signals] = []
        self._depth = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come and has been noted."""
        return self._asked is not None

    def __enter__(self) -> "Ending":
        self._depth += 1
        if self._depth == 1 and _in_main_thread():
            self._ours = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) == default]
            for number in self._ours:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            if self._timer:
                self._timer.cancel()
            for number in self._ours:
                signal.signal(number, _DEFAULTS[number])
            self._ours = []
            self._asked = None  # a notebook may go on

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal is noted only."""
        with self:
            self._is_deferred = True
            try:
                yield
            finally:
                self._is_deferred = False

    def take_effect(self) -> None:
        """Leave, if a signal has come."""
        if self._asked is not None:
            self._leave(self._asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        global _is_urgent
        by_timer, self._was_timer = self._was_timer, False
        if self._asked is None:
            self._asked = number
            if self._is_deferred:
                self._again_in(_GRACE, number)
                return
        elif not by_timer or not self._is_deferred:
            _is_urgent = True
        self._leave(number)

    def _leave(self, number: int) -> NoReturn:
        self._is_deferred = False
        self._again_in(_PATIENCE, number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        print("error: terminated", file=sys.stderr)
        sys.exit(128 + number)

    def _again_in(self, seconds: float, number: int) -> None:
        """Let the same signal come again, after some seconds."""
        if self._timer:
            self._timer.cancel()

        def again() -> None:
            self._was_timer = True
            _thread.interrupt_main(signal.Signals(number))

        self._timer = threading.Timer(seconds, again)
        self._timer.daemon = True
        self._timer.start()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
