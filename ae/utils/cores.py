"""Cores of the machine: how many a process may use, and how many others keep busy."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _IOWAIT = 3, 4  # columns of a core's line in /proc/stat


def core_count() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Return the bytes of memory that no process uses, with caches; None where the system does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return None


def busy_by_others() -> Callable[[], float | None]:
    """Return a function that measures the cores that other processes kept busy since this call.

    It returns None where the system does not tell, or less than 0.1 s have passed. Cores that this process may not use
    do not count.
    """
    start, at, own = _busy_seconds(), time.monotonic(), time.process_time()

    def measure() -> float | None:
        now, seconds = _busy_seconds(), time.monotonic() - at
        if start is None or now is None or seconds < 0.1:
            return None
        return max(0.0, now - start - (time.process_time() - own)) / seconds

    return measure


def _busy_seconds() -> float | None:
    """Return the seconds that the process's cores have been busy since the start of the system."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = 0
        for line in _STAT.read_text().splitlines():
            name, *columns = line.split()
            if name in usable:
                values = [int(column) for column in columns[:8]]  # the last two, of guests, are in the first two
                ticks += sum(values) - values[_IDLE] - values[_IOWAIT]
        return ticks / os.sysconf("SC_CLK_TCK")
    return None
