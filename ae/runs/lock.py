"""Lock of a run's folder: one process at a time has a run open."""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from ae.utils.console import say
from ae.utils.errors import InputError
from ae.utils.files import exists

LOCK = ".lock"

_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class Lock:
    """Exclusive lock of a run's folder, held by this process until `release` or the end of the process.

    On a file system without locks, a warning replaces the lock, and `is_exclusive` is false. Raises InputError if
    another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / LOCK)
        self.is_exclusive = True
        try:
            _check_support(folder / LOCK)
            self._lock.acquire(timeout=1)  # seconds; `is_running` of another process holds the lock for an instant
        except Timeout as error:
            raise InputError(
                f"the run in {folder} is open already, in another process or unfinished in this one"
            ) from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
                raise InputError(f"can't write in {folder}: {error.strerror}") from error
            self.is_exclusive = False
            say(f"{folder} is on a file system without locks: see that no other process has the run open", error=True)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def is_running(folder: Path) -> bool:
    """Whether a process on this machine has the run in `folder` open."""
    if not exists(folder / LOCK):
        return False
    try:
        _check_support(folder / LOCK)
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # the folder is read-only, or its file system has no locks
        return False


def _check_support(path: Path) -> None:
    """Raise OSError on a file system without locks, where filelock's lock file would outlive a killed process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_UN)
