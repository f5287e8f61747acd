"""The number of images at a time, by the memory that their activations take."""

from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor

from ae.data import Batch
from ae.training.checkpointing import KeepBuffers
from ae.training.step import Step

_SHARE = 0.5  # of the free memory; the rest is for the buffers of the backward pass, and for other processes
_COPIES = 4  # of each weight, at most: gradient, the two moments of Adam, and an average


def fitting_micro_batch(step: Step, batch: Batch, most: int) -> int:
    """Return the number of images, `most` at most, whose activations fit the free memory of the batch's device.

    The activations of `batch`, a few images, are measured in training mode. On a device that does not tell its memory
    the number is `most`. Smaller micro-batches, which fit a processor's cache, are not faster (`experiments/LOG.md`).
    """
    free = free_memory(batch.images.device)
    if free is None:
        return most
    weights = sum(parameter.nbytes for parameter in step.parameters() if parameter.requires_grad)
    size = max(kept_bytes(step, batch) // max(len(batch), 1), 1)
    return max(min(most, int(_SHARE * (free - _COPIES * weights) / size)), 1)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a device that are free, or that PyTorch keeps for reuse; None where they are not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None


def kept_bytes(step: Step, batch: Batch) -> int:
    """Return the bytes of all tensors, without weights, that a step keeps for the backward pass.

    Buffers and random generators are as before.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*step.parameters(), *step.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with ExitStack() as contexts:
        contexts.enter_context(torch.random.fork_rng())
        contexts.enter_context(KeepBuffers(step))
        contexts.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        for _ in step.losses(batch, 0, "fp32"):
            pass
    return sum(sizes.values())
