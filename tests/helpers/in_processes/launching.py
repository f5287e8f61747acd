"""The process group's end, and a process that waits for ever."""

import contextlib
import os
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ae import (
    InputError,
)
from ae.utils.distributed import (
    average_gradients,
    is_main,
)
from ae.utils.launch import launched
from ae.utils.signals import Ending


def check_launched_leaves_no_group() -> None:
    """No group and no thread is left after any exception, and with any reference to modules or the group."""
    references: list[object] = []
    before = tasks()  # of this process, such as that of tqdm

    def work(end: BaseException | None) -> None:
        import torch.distributed.nn.functional as late  # its functions have the group as default argument

        module = nn.Linear(3, 3)
        output = module(torch.ones(2, 3))
        output.sum().backward()
        average_gradients(list(module.parameters()))
        references.extend((late, module, output, lambda group=dist.group.WORLD: group))
        if end is not None:
            raise end

    for end in (None, InputError("bad"), KeyboardInterrupt(), SystemExit(3), RuntimeError("bug")):
        with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as stack:
            if end is not None:
                stack.enter_context(pytest.raises(type(end)))
            with launched():
                work(end)
        assert not dist.is_initialized()
        until = time.monotonic() + 5
        while tasks() - before and time.monotonic() < until:  # ended threads stay listed for a moment
            time.sleep(0.01)
        assert not tasks() - before, end


def tasks() -> set[Path]:
    """The folders of this process's threads, without those of autograd."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            if "autograd" not in (task / "comm").read_text():
                found.add(task)
    return found


def wait_for_ever() -> None:
    """Wait in a barrier that never completes, with signals deferred, as training does for a stopped process."""
    with launched(), Ending().deferred():
        os.write(1, f"process {os.getpid()}\n".encode())  # in one call: two processes share the pipe
        if is_main():
            dist.barrier()
        while True:
            time.sleep(1)
