"""Lines for a person on stdout and stderr, which fail nothing: not on a full disk, in a closed pipe or in ASCII."""

import os
import sys
from contextlib import suppress
from typing import Any

_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
)  # ValueError: it is closed; RuntimeError: a signal came while it printed


class _Steady:
    """A text stream of which nobody may read any more, and which is then silent; in all else the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write where that is possible."""
        try:
            return int(self._stream.write(text))
        except _FAILURES:
            return len(text)

    def flush(self) -> None:
        """Flush where that is possible."""
        try:
            self._stream.flush()
        except _FAILURES:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady() -> None:
    """Let stdout and stderr take any text for the rest of the process, and fail at nothing, at its end neither.

    A stream that was closed when the process began is /dev/null: otherwise the next file that is opened is in its
    place, and gets what other libraries print.
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
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed
            os.dup2(opened, descriptor)
        os.close(opened)


def is_terminal(stream: Any) -> bool:
    """Whether a person sees a stream as it is written; a stream that is closed nobody sees."""
    try:
        return stream is not None and stream.isatty()
    except _FAILURES:
        return False


def say(text: str, error: bool = False) -> None:
    """Print a line at once, to stdout or stderr, as far as that is possible."""
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except _FAILURES:
        steady()  # what is left in the stream's buffer must not fail the process's end
