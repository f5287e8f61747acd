"""What one process of a machine has read, in memory once, for all processes of that machine."""

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

from ae.utils.distributed import Attempt, attempt, gathered, local_rank, machine, world_size
from ae.utils.errors import InputError
from ae.utils.signals import uninterrupted

Value = TypeVar("Value")

_MEMORY = Path("/dev/shm")  # a folder in memory, where the system has one
_SPARE = 1.25  # so much of what is needed must be free there: readers of streamed images need some, too


def once_a_machine(make: Callable[[], Value]) -> Value:
    """Call `make` in one process of each machine; its tensors are in memory once, for all of them.

    Raises in every process what `make` raises in one, and InputError where neither memory nor the folder of temporary
    files has the space.
    """
    if world_size() == 1:
        return make()
    leads = local_rank() == 0
    with ExitStack() as until_opened:
        made: Attempt | None = None
        if leads:
            value = attempt(make)
            until_opened.enter_context(uninterrupted())  # the files must not stay behind
            made = attempt(lambda: until_opened.enter_context(_stored(value.result())))
        (found,) = [made for place, made in gathered((machine(), made)) if place == machine() and made is not None]
        opened = _opened(found.result())
        gathered(None)  # all have opened the files: their names may go
    return opened


@contextmanager
def _stored(value: Any) -> Iterator[bytes]:
    """The value without its tensors, which are in files inside: in memory if it has the space, else in a folder."""
    tensors: list[Tensor] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            if not isinstance(thing, Tensor):
                return None
            tensors.append(thing)
            return len(tensors) - 1, thing.dtype, tuple(thing.shape)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    with _written(tensors) as folder:
        yield pickle.dumps((str(folder), buffer.getvalue()))


@contextmanager
def _written(tensors: list[Tensor]) -> Iterator[Path]:
    """A folder that holds each tensor in a file of its own, named by its place in the list."""
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
            except OSError:  # filled up by others meanwhile, or not to be written to
                continue
            yield folder
            return
    raise InputError(
        f"the images take {size / 2**20:,.0f} MiB, which neither {_MEMORY} nor {temporary} has: free some space, "
        "set TMPDIR to another folder, or read images while training (Data.stream)"
    )


def _write(path: Path, tensor: Tensor) -> None:
    """Write a tensor to a file; what is not mapped before it is written is an OSError on a full disk, not a SIGBUS."""
    with open(path, "xb") as file:
        file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _opened(content: bytes) -> Any:
    """The value of which `_stored` made this, with tensors that are the files' memory."""
    folder, rest = pickle.loads(content)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Tensor:
            i, dtype, shape = place
            return _mapped(Path(folder, str(i)), dtype, shape)

    return Unpickler(io.BytesIO(rest)).load()


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
