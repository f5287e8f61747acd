"""The beginning and the end of a group of processes: what `torchrun`, or another launcher, says in the environment."""

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
_LOOK = 0.5  # seconds between looks at whether the launcher is there
_GRACE = 10.0  # seconds in which a process ends by SIGTERM: a training saves its state


@contextmanager
def launched() -> Iterator[None]:
    """Inside, the processes that a launcher has started are a group, of which no thread is left afterwards.

    The launcher sets WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and, as a rule, LOCAL_RANK; empty is not set. Processes
    that `torchrun` has started end when it is killed. Raises InputError where the environment says no group.
    """
    count = _count_of_processes()
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


def _count_of_processes() -> int:
    """WORLD_SIZE, where all that a group needs is said with it."""
    count, rank = _number("WORLD_SIZE", 1), _number("RANK")
    world = 1 if count is None else count
    if rank is not None and rank >= world:
        said = "is not set" if count is None else f"is {count}"
        raise InputError(f"the environment variable RANK must be less than WORLD_SIZE, which {said}; got {rank}")
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
    """An environment variable that is a whole number; None where it is not set, or empty."""
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
        name = f"ae/{next(_joined)}"  # an earlier group of the same processes has left its addresses in the store
        dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"the processes can't meet at MASTER_ADDR:MASTER_PORT, {where}: {one_line(error)}") from error
    if torch.cuda.is_available():
        of_order, of_launcher = distributed.local_rank(), _number("LOCAL_RANK")
        torch.cuda.set_device((of_order if of_launcher is None else of_launcher) % torch.cuda.device_count())


def _leave() -> None:
    """End the group with its threads, which live as long as anything refers to it."""
    if not dist.is_initialized():
        return
    distributed.release()
    _forget_defaults()
    dist.destroy_process_group()
    gc.collect()


def _forget_defaults() -> None:
    """Take the group out of the defaults of functions, as those of modules that were imported after it was made."""
    for function in gc.get_objects():
        defaults = function.__defaults__ if type(function) is FunctionType else None
        if defaults and any(map(_is_group, defaults)):
            function.__defaults__ = tuple(None if _is_group(value) else value for value in defaults)


def _is_group(value: object) -> bool:
    return isinstance(value, dist.ProcessGroup)


def _forget_variables(error: BaseException | None) -> None:
    """Clear the variables of all functions that an exception has left: the group is in those that waited for it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _ending_with_launcher() -> Iterator[None]:
    """Inside, the death of the `torchrun` that has started this process is a SIGTERM, after some seconds a SIGKILL."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    has_left = threading.Event()
    watch = threading.Thread(target=_watch, args=(os.getppid(), has_left), name="launcher", daemon=True)
    watch.start()
    try:
        yield
    finally:
        has_left.set()
        watch.join()


def _watch(launcher: int, has_left: threading.Event) -> None:
    while not has_left.wait(_LOOK):
        if os.getppid() != launcher:
            with suppress(OSError, ValueError):  # what it has left behind may be closed
                say("error: torchrun has ended, and with it this process does", error=True)
            os.kill(os.getpid(), signal.SIGTERM)
            if not has_left.wait(_GRACE):
                os.kill(os.getpid(), signal.SIGKILL)  # it waits for another process, which has ended
            return
