"""Ctrl-C and the signals that end a process: what must be whole is not cut in two, and a run saves its state first."""

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

_GRACE = 4.0  # seconds in which a training comes to a point where it can be saved
_PATIENCE = 5.0  # seconds for what is then to be finished, W&B's last rows for one
_SAID = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "terminated, as its terminal was closed",
    "SIGUSR1": "terminated by SIGUSR1",
}
_ENDING = [getattr(signal, name) for name in _SAID if hasattr(signal, name)]  # Windows lacks two of them
_PROGRAMS = ("ae.", "experiments.")

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
    """Inside, Ctrl-C and the signals that end a process wait; one that has come takes effect at the end.

    A signal that is ignored stays ignored. Python gives signals to the main thread alone; elsewhere there is nothing
    to do.
    """
    if not _in_main_thread():
        yield
        return
    arrived: list[int] = []
    kept = (signal.SIG_IGN, None)  # None: the handler of a library in C
    waiting = [number for number in _ENDING if signal.getsignal(number) not in kept and not _is_caught_in_c(number)]
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in waiting}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class Ending:
    """As a context manager: signals leave by an exception, KeyboardInterrupt or SystemExit(128 + the signal's number).

    These are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is closed) and SIGUSR1 (a scheduler's warning). Inside
    `deferred` the first one is only noted in `is_asked`, until `take_effect`: for `_GRACE` seconds at most. A second
    one leaves at once, and so does the first one, again, where what is done on the way out takes longer than
    `_PATIENCE`: `is_urgent` tells. A handler that somebody else has set is left in its place, and a signal that is
    ignored stays so, as `nohup` has SIGHUP ignored, and a shell that of Ctrl-C in its background jobs. Processes that
    are forked inside, as readers of data are, leave it to this one to end them.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_deferred = self._was_timer = False
        self._timer: threading.Timer | None = None
        self._ours: list[signal.Signals] = []
        self._depth = self._process = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come and has been noted."""
        return self._asked is not None

    def __enter__(self) -> "Ending":
        self._depth, self._process = self._depth + 1, os.getpid()
        if self._depth == 1 and _in_main_thread():
            self._ours = [number for number in _ENDING if _is_free(number)]
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
                signal.signal(number, _default(number))
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
        say(f"error: {_SAID[signal.Signals(number).name]}", error=True)
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


ending = Ending()
"""The process's one: of the command line from its beginning, of a `Run` from Python."""


def _in_forked(number: int) -> None:
    """SIGTERM ends a forked process; other signals come from a terminal or a scheduler, to all processes at once."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _default(number: signal.Signals) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _is_free(number: signal.Signals) -> bool:
    """Whether nobody has said what a signal is to do: no handler is set, and it is not ignored."""
    return signal.getsignal(number) in (_default(number), _end_at_once) and not _is_caught_in_c(number)


def _is_caught_in_c(number: signal.Signals) -> bool:
    """Whether a library in C handles a signal, which Python does not know; faulthandler does so, of SIGUSR1 often."""
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
    """Let Ctrl-C end a program of ours in one line while it imports its libraries, until `Ending` takes over."""
    names = [name for option, name in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) if option == "-m"]
    is_program = sys.argv[:1] == ["-m"] and bool(names) and names[-1].startswith(_PROGRAMS)  # -m: it is being located
    if is_program and _in_main_thread() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


end_imports_at_once()
