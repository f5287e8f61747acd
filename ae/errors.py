"""What a user can put right, and what a run can die of: one clear line each."""


class InputError(ValueError):
    """Bad input; the message says in one line what was wrong and what would be right. Exit code 2."""


class DivergedError(RuntimeError):
    """A value that became NaN or infinite; names the step, the value and the learning rate. Exit code 1."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line, or the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class StorageError(RuntimeError):
    """A run's folder that can't be written to any more: the disk is full, or the folder gone. Exit code 1."""
