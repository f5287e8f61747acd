"""Shared memory: data that one process of a machine reads, mapped by all processes of that machine."""

import io
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ae.utils.distributed import Attempt, all_gather, attempt, local_rank, machine, world_size
from ae.utils.errors import InputError
from ae.utils.signals import uninterrupted

Value = TypeVar("Value")

_MEMORY = Path("/dev/shm")  # a folder in memory, where the system has one
_SPARE = 1.25  # times the data's size must be free: workers that stream images use shared memory, too


def once_per_machine(make: Callable[[], Value]) -> Value:
    """Call `make` in one process of each machine; all processes of the machine share the memory of its tensors.

    Raises the exception of `make` in every process, and InputError where neither shared memory nor the folder of
    temporary files has the space.
    """
    if world_size() == 1:
        return make()
    leads = local_rank() == 0
    with ExitStack() as until_opened:
        stored: Attempt | None = None
        if leads:
            value = attempt(make)
            until_opened.enter_context(uninterrupted())  # a signal would leave the files behind
            stored = attempt(lambda: until_opened.enter_context(_stored(value.result())))
        everywhere = all_gather((machine(), stored))
        (here,) = [each for place, each in everywhere if place == machine() and each is not None]
        opened = _opened(here.result())
        all_gather(None)  # a barrier: all processes have opened the files, whose names may be removed
    return opened


@contextmanager
def _stored(value: Any) -> Iterator[bytes]:
    """Pickle a value with its tensors in files: in shared memory if there is space, else in the temporary folder."""
    tensors: list[Tensor] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> Any:
            if not isinstance(part, Tensor):
                return None
            tensors.append(part)
            return len(tensors) - 1, part.dtype, tuple(part.shape)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    with _written(tensors) as folder:
        yield pickle.dumps((str(folder), buffer.getvalue()))


@contextmanager
def _written(tensors: list[Tensor]) -> Iterator[Path]:
    """Write each tensor to a file named by its index, in a temporary folder."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    temporary = Path(tempfile.gettempdir())
    for place, wanted in ((_MEMORY, size * _SPARE), (temporary, size)):
        with ExitStack() as stack:
            try:
                if shutil.disk_usage(place).free < wanted:
                    continue
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ae-", dir=place)))
                for i, tensor in enumerate(tensors):
                    _write(folder / str(i), tensor)
            except OSError:  # filled up in the meantime, or not writable
                continue
            yield folder
            return
    raise InputError(
        f"the images take {size / 2**20:,.0f} MiB, which neither {_MEMORY} nor {temporary} has: free some space, "
        "set TMPDIR to another folder, or read images while training (Data.stream)"
    )


def _write(path: Path, tensor: Tensor) -> None:
    """Write a tensor to a file without mapping it: a full disk is an OSError, not a SIGBUS."""
    with open(path, "xb") as file:
        file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _opened(content: bytes) -> Any:
    """Unpickle the content of `_stored`; the tensors are maps of the files."""
    folder, pickled = pickle.loads(content)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Tensor:
            i, dtype, shape = place
            return _mapped(Path(folder, str(i)), dtype, shape)

    return Unpickler(io.BytesIO(pickled)).load()


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
