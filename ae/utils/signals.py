"""Ctrl-C and termination signals: critical sections are not interrupted, and a run saves its state before the end."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from ae.utils.console import say

_GRACE = 4.0  # seconds for training to reach a step at which its state can be saved
_PATIENCE = 5.0  # seconds for cleanup thereafter, such as the upload of W&B's last rows
_MESSAGES = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "terminated, as its terminal was closed",
    "SIGUSR1": "terminated by SIGUSR1",
}
_SIGNALS = [getattr(signal, name) for name in _MESSAGES if hasattr(signal, name)]  # Windows lacks SIGHUP and SIGUSR1
_PROGRAMS = ("ae.", "experiments.")

_is_urgent = False


def is_urgent() -> bool:
    """Whether to skip every further wait: a second signal came, or the cleanup took longer than `_PATIENCE`."""
    return _is_urgent


def hurry() -> None:
    """Skip every further wait of this process."""
    global _is_urgent
    _is_urgent = True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and termination signals to the end of the block.

    An ignored signal stays ignored. In other threads than the main thread, to which Python delivers signals, the
    block runs unchanged.
    """
    if not _in_main_thread():
        yield
        return
    arrived: list[int] = []
    excluded = (signal.SIG_IGN, None)  # None: the handler of a C library
    delayed = [
        number for number in _SIGNALS if signal.getsignal(number) not in excluded and not _is_caught_in_c(number)
    ]
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in delayed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class Ending:
    """Context manager in which signals raise KeyboardInterrupt or SystemExit(128 + the signal's number).

    The signals are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is closed) and SIGUSR1 (a scheduler's warning).
    Inside `deferred` the first signal only sets `is_asked`, until `take_effect`, for `_GRACE` seconds at most. A second
    signal raises at once. Where the cleanup takes longer than `_PATIENCE` the first signal is raised again, and
    `is_urgent` is true. The handlers of other code are kept. Ignored signals stay ignored, such as SIGHUP under
    `nohup`, and SIGINT in a shell's background jobs. Forked processes, such as data workers, ignore the signals but
    SIGTERM: their parent ends them.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_deferred = self._was_timer = False
        self._timer: threading.Timer | None = None
        self._handled: list[signal.Signals] = []
        self._depth = self._process = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._asked is not None

    def __enter__(self) -> "Ending":
        self._depth, self._process = self._depth + 1, os.getpid()
        if self._depth == 1 and _in_main_thread():
            self._handled = [number for number in _SIGNALS if _is_free(number)]
            for number in self._handled:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            if self._timer:
                self._timer.cancel()
            for number in self._handled:
                signal.signal(number, _default(number))
            self._handled = []
            self._asked = None  # a notebook may train again

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the first signal to `take_effect`."""
        with self:
            self._is_deferred = True
            try:
                yield
            finally:
                self._is_deferred = False

    def take_effect(self) -> None:
        """Raise the exception of the deferred signal, if one has arrived."""
        if self._asked is not None:
            self._leave(self._asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        global _is_urgent
        if os.getpid() != self._process:
            _in_forked(number)
            return
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
        say(f"error: {_MESSAGES[signal.Signals(number).name]}", error=True)
        sys.exit(128 + number)

    def _again_in(self, seconds: float, number: int) -> None:
        """Send the same signal again after some seconds."""
        if self._timer:
            self._timer.cancel()

        def again() -> None:
            self._was_timer = True
            _thread.interrupt_main(signal.Signals(number))

        self._timer = threading.Timer(seconds, again)
        self._timer.daemon = True
        self._timer.start()


ending = Ending()
"""Instance of this process: the command line enters it at its start, a `Run` from Python when constructed."""


def _in_forked(number: int) -> None:
    """End a forked process by SIGTERM; terminals and schedulers send other signals to the parent, too."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _default(number: signal.Signals) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _is_free(number: signal.Signals) -> bool:
    """Whether a signal has its default action: it has no handler, and is not ignored."""
    return signal.getsignal(number) in (_default(number), _end_at_once) and not _is_caught_in_c(number)


def _is_caught_in_c(number: signal.Signals) -> bool:
    """Whether a C library handles a signal, of which Python has no record, as faulthandler does for SIGUSR1."""
    if signal.getsignal(number) != signal.SIG_DFL:
        return False
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        return False
    return bool(caught >> (number - 1) & 1)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    say("error: interrupted", error=True)
    os._exit(128 + number)


def end_imports_at_once() -> None:
    """Let Ctrl-C end `python -m ae...` or `experiments...` in one line during imports, until `Ending` takes over."""
    names = [name for option, name in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) if option == "-m"]
    is_program = (
        sys.argv[:1] == ["-m"] and bool(names) and names[-1].startswith(_PROGRAMS)
    )  # -m: Python is locating the module
    if is_program and _in_main_thread() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


end_imports_at_once()
