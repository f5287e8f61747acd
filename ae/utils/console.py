"""Output to stdout and stderr that never raises: on a full disk, in a closed pipe, or in an ASCII locale."""

import os
import sys
from contextlib import suppress
from typing import Any

# ValueError: the stream is closed. RuntimeError: a signal handler prints while another print is in progress.
_FAILURES = (OSError, ValueError, RuntimeError)


class _Steady:
    """Proxy of a text stream that ignores failed writes, as after the reader of a pipe has ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it where the stream fails."""
        try:
            return int(self._stream.write(text))
        except _FAILURES:
            return len(text)

    def flush(self) -> None:
        """Flush the stream; ignore a failure."""
        try:
            self._stream.flush()
        except _FAILURES:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady() -> None:
    """Make stdout and stderr accept any text, and never fail, until the process has ended.

    Streams that were closed at the start of the process become /dev/null. Otherwise the next file to be opened takes
    their descriptor, and receives the output of other libraries.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _occupy(descriptor)
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and not isinstance(stream, _Steady):
            if hasattr(stream, "reconfigure"):
                with suppress(*_FAILURES):
                    stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Steady(stream))


def _occupy(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        try:
            os.fstat(descriptor)
        except OSError:  # the descriptor is closed
            os.dup2(null, descriptor)
        os.close(null)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is an open terminal."""
    try:
        return stream is not None and stream.isatty()
    except _FAILURES:
        return False


def say(text: str, error: bool = False) -> None:
    """Print a line to stdout or stderr, and flush; never raises."""
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except _FAILURES:
        steady()  # the stream's buffer is flushed again at exit, which must not fail
