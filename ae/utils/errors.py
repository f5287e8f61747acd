"""Exceptions that are shown as one line, with the exit code of the command that they end."""


def printable(text: str) -> str:
    """A text for a line of a terminal: what would break the line, or steer the terminal, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class _OneLineError(Exception):
    """An exception whose message is one printable line, whatever names and values it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(_OneLineError, ValueError):
    """Bad input; the message says in one line what was wrong and what would be right. Exit code 2."""


class DivergedError(_OneLineError, RuntimeError):
    """A value that became NaN or infinite; names the step, the value and the learning rate. Exit code 1."""


class StorageError(_OneLineError, RuntimeError):
    """A run's folder that can't be written to any more: the disk is full, or the folder gone. Exit code 1."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line, or the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
