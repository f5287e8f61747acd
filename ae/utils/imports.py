"""Imports of modules that take long."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Import a module in a thread, while the code inside waits for something else; on exit, the import is done.

    The garbage collector, which every few hundred new objects set off, is paused. An error of the import is left to the
    code that needs the module.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(import_module, module)
            yield
    finally:
        if was_enabled:
            gc.enable()
