"""Exceptions shown as one line, with the exit code of the command that they end, and one-line messages."""


def printable(text: str) -> str:
    """Escape every character of `text` that would break a terminal's line or control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class _OneLineError(Exception):
    """Exception whose message is one printable line, whatever names and values it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(_OneLineError, ValueError):
    """Bad input: the message states what is wrong and what would be right. Exit code 2."""


class DivergedError(_OneLineError, RuntimeError):
    """Divergence: a value became NaN or infinite. The message names step, value and learning rate. Exit code 1."""


class StorageError(_OneLineError, RuntimeError):
    """Failed write to a run's folder: the disk is full, or the folder was removed. Exit code 1."""


def one_line(message: BaseException | str) -> str:
    """Join the lines of a text or an exception's message by spaces; an exception without a message gives its class."""
    text = " ".join(str(message).split())
    return text or ("" if isinstance(message, str) else type(message).__name__)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class's name where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
