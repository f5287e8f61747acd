"""Memory of the process."""

import ctypes
import os
from contextlib import suppress
from functools import cache

_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation, in place of returning it to the system; of glibc only.

    Every batch allocates its activations again. glibc takes large blocks from the system and returns them, and the
    system clears every page: a third of the time of a step on images of 128x128 pixels. The peak of memory grows by up
    to a fifth. Settings in the environment, `MALLOC_...` or `GLIBC_TUNABLES`, are the user's choice and stay. Returns
    whether freed memory is kept.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    with suppress(AttributeError, OSError, ValueError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            mallopt = ctypes.CDLL(None).mallopt
            return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
    return False
