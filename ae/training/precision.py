"""The precision of a training: bf16 where the processor or GPU computes in it natively, and the step gains by it."""

from typing import Literal

import torch

from ae.data import Batch
from ae.evaluation.inference import evaluating
from ae.models.autoencoder import Autoencoder

Precision = Literal["fp32", "bf16"]

_LEAST = 2**26  # operations of a batch's forward pass from which bf16 is faster (AVX-512 BF16: `experiments/LOG.md`)


def has_native_bf16(device: torch.device) -> bool | None:
    """Whether a device multiplies matrices in bf16; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return None


def chosen_precision(model: torch.nn.Module, batch: Batch, batch_size: int) -> Precision:
    """Choose bf16 if the device has it natively and a batch is large enough to gain by it, else fp32.

    The size is the number of operations of the forward pass of `batch_size` images, by a pass of the first image of
    `batch`. A model that is no Autoencoder is trained in fp32.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = batch.images.device
    if not isinstance(model, Autoencoder) or not has_native_bf16(device):
        return "fp32"
    with evaluating(model, fork_rng=True), FlopCounterMode(display=False) as counter:
        model(batch.images[:1])
    return "bf16" if counter.get_total_flops() * batch_size >= _LEAST else "fp32"


def emulation_warning(device: torch.device, precision: Precision) -> str | None:
    """Return a line that says that bf16 is emulated, and slower than fp32; None where it is not."""
    if precision == "fp32" or has_native_bf16(device) is not False:
        return None
    return (
        "bf16 is emulated on this device, which has no instructions for it, and several times slower than fp32: start "
        "runs here with Recipe.precision fp32, or auto"
    )
