"""What a user can put right, and what a run can die of: one clear line each."""


class InputError(ValueError):
    """Bad input; the message says in one line what was wrong and what would be right. Exit code 2."""


class DivergedError(RuntimeError):
    """A value that became NaN or infinite; names the step, the value and the learning rate. Exit code 1."""
