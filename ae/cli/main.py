"""Entry point of a program: parse its command line, run it, and end with an exit code."""

import atexit
import gc
import inspect
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar, get_type_hints

from ae.cli.messages import with_flags
from ae.cli.parser import parse
from ae.utils.console import say, steady
from ae.utils.errors import DivergedError, InputError, StorageError
from ae.utils.launch import launched
from ae.utils.signals import ending, is_urgent

Config = TypeVar("Config")


def cli(main: Callable[[Config], None]) -> None:
    """Run `main`, a function of one dataclass, with the configuration of the command line.

    Errors end the process with one line and an exit code: 2 for bad input, 1 for a diverged training or a full disk,
    130 for Ctrl-C, and 143, 129 and 138 for SIGTERM, SIGHUP and SIGUSR1. The exit code holds even if nothing can be
    printed, as on a full disk or in a closed pipe.
    """
    steady()
    atexit.register(gc.freeze)  # else the interpreter's last collections examine every object: 0.8 s
    (config_type,) = [hint for name, hint in get_type_hints(main).items() if name != "return"]
    description = inspect.getdoc(inspect.getmodule(main)) or ""
    try:
        with ending, launched():
            main(parse(config_type, sys.argv[1:], description))
    except InputError as error:
        _fail(with_flags(str(error), config_type, sys.argv[1:]), 2)
    except (DivergedError, StorageError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except SystemExit as stop:
        if is_urgent() and isinstance(stop.code, int):
            _exit_at_once(stop.code)
        raise


def _fail(message: str, code: int) -> NoReturn:
    say(f"error: {message}", error=True)
    if is_urgent():
        _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    """End the process without its exit handlers, such as W&B's, which wait for a server."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
