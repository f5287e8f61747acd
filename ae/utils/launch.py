"""Start and end of a process group, from the environment variables of `torchrun` or another launcher."""

import gc
import itertools
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FunctionType

import torch
import torch.distributed as dist

from ae.utils import distributed
from ae.utils.console import say
from ae.utils.errors import InputError, one_line

_joined = itertools.count()
_POLL = 0.5  # seconds between checks that the launcher is alive
_GRACE = 10.0  # seconds between SIGTERM, on which training saves its state, and SIGKILL


@contextmanager
def launched() -> Iterator[None]:
    """Form a process group of the launcher's processes, and destroy the group and its threads at exit.

    The launcher sets WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and, as a rule, LOCAL_RANK; an empty variable counts as
    unset. Processes of a killed `torchrun` end. Raises InputError where these variables are incomplete or wrong.
    """
    count = _world_size()
    with _ending_with_launcher():
        if count == 1 or dist.is_initialized():
            yield
            return
        try:
            _join()
            yield
        except BaseException as error:
            _forget_variables(error)
            raise
        finally:
            _leave()


def _world_size() -> int:
    """Return WORLD_SIZE, after a check of the other variables of a process group."""
    count, rank = _number("WORLD_SIZE", 1), _number("RANK")
    world = 1 if count is None else count
    if rank is not None and rank >= world:
        state = "is not set" if count is None else f"is {count}"
        raise InputError(f"the environment variable RANK must be less than WORLD_SIZE, which {state}; got {rank}")
    if world == 1:
        return 1
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name, "").strip()]
    if missing:
        raise InputError(
            f"the environment variable WORLD_SIZE is set ({world}), and {' and '.join(missing)} not: "
            "start several processes with torchrun, or unset WORLD_SIZE for one"
        )
    _number("MASTER_PORT", 0, 65535)
    _number("LOCAL_RANK")
    return world


def _number(name: str, low: int = 0, high: int | None = None) -> int | None:
    """Read an environment variable that is a whole number; None where it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    wanted = f"{low} or more" if high is None else f"from {low} to {high}"
    if not text.isdecimal() or not low <= int(text) <= (int(text) if high is None else high):
        raise InputError(f"the environment variable {name} must be a whole number {wanted}, got {text!r}")
    return int(text)


def _join() -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, count = next(dist.rendezvous("env://"))
        name = f"ae/{next(_joined)}"  # a new prefix, as the store still holds the addresses of an earlier group
        dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"the processes can't meet at MASTER_ADDR:MASTER_PORT, {where}: {one_line(error)}") from error
    if torch.cuda.is_available():
        counted, launcher = distributed.local_rank(), _number("LOCAL_RANK")
        torch.cuda.set_device((counted if launcher is None else launcher) % torch.cuda.device_count())


def _leave() -> None:
    """Destroy the group with its threads, which live as long as anything refers to the group."""
    if not dist.is_initialized():
        return
    _forget_defaults()
    dist.destroy_process_group()
    gc.collect()


def _forget_defaults() -> None:
    """Remove the group from default arguments, as of functions in modules imported after the group was formed."""
    for function in gc.get_objects():
        defaults = function.__defaults__ if type(function) is FunctionType else None
        if defaults and any(map(_is_group, defaults)):
            function.__defaults__ = tuple(None if _is_group(value) else value for value in defaults)


def _is_group(value: object) -> bool:
    return isinstance(value, dist.ProcessGroup)


def _forget_variables(error: BaseException | None) -> None:
    """Clear the local variables of an exception's traceback, which may refer to the group."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _ending_with_launcher() -> Iterator[None]:
    """Send this process SIGTERM when its `torchrun` ends, and SIGKILL after `_GRACE` seconds."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(os.getppid(), is_over), name="launcher", daemon=True)
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        watch.join()


def _watch(launcher: int, is_over: threading.Event) -> None:
    while not is_over.wait(_POLL):
        if os.getppid() != launcher:
            with suppress(OSError, ValueError):  # its streams may be closed
                say("error: torchrun has ended, which ends this process", error=True)
            os.kill(os.getpid(), signal.SIGTERM)
            if not is_over.wait(_GRACE):
                os.kill(os.getpid(), signal.SIGKILL)  # it may wait for a process that has ended
            return
