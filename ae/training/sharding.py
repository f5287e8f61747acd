"""Fully sharded training (FSDP2): weights, gradients and optimiser state of stages shared out among the processes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ae.training.stages import stages_of
from ae.utils import distributed
from ae.utils.errors import InputError

_SETTING = "Recipe.shard"
_SINCE = (2, 14)  # PyTorch 2.8 takes the sum of the gradients on CPUs, not their mean; versions between were not tried


def shard_stages(model: nn.Module, device: torch.device) -> None:
    """Shard every stage of an Autoencoder's encoder and decoder over the processes, with the same gradients.

    Rajbhandari et al. 2020 (ZeRO), stage 3; Zhao et al. 2023 (PyTorch FSDP). A stage gathers its weights for the
    forward pass and again for the backward pass, so that a process holds those of one stage at a time. Gradients are
    averaged over the processes. Weights outside of stages, such as those of bottleneck, prior and heads, are whole in
    every process. Raises InputError for a model that is no Autoencoder, for weights that several stages share, and for
    a single process.
    """
    if distributed.world_size() == 1:
        raise InputError(f"{_SETTING} needs several processes: torchrun --nproc-per-node 2 -m experiments.joint ...")
    if not is_supported():
        raise InputError(f"{_SETTING} needs PyTorch {_SINCE[0]}.{_SINCE[1]} or newer, got {torch.__version__}")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # slow to import

    stages = [stage for stage in stages_of(model, _SETTING) if any(True for _ in stage.parameters())]
    _check_not_tied(model, stages)
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for stage in stages:
        fully_shard(stage, mesh=mesh, reshard_after_forward=True)


def is_supported() -> bool:
    """Whether this version of PyTorch is known to average the gradients of sharded weights."""
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= _SINCE


def without_weights(model: nn.Module) -> nn.Module:
    """Copy a model, with weights on the meta device, to be filled by `fill`."""
    tensors = [*model.parameters(), *model.buffers()]
    return deepcopy(model, {id(tensor): _on_meta(tensor) for tensor in tensors})


def fill(skeleton: nn.Module, model: nn.Module) -> nn.Module:
    """Return the copy of `without_weights` with the whole weights of the sharded model, on the CPU; a collective."""
    skeleton.load_state_dict(distributed.whole(model.state_dict()), assign=True)
    return skeleton


@contextmanager
def sharding_errors(is_sharded: bool) -> Iterator[None]:
    """Raise InputError, in one line with a remedy, where the weights of a stage are read that are not gathered."""
    try:
        yield
    except RuntimeError as error:
        if is_sharded and "mixed torch.Tensor and DTensor" in str(error):
            reason = "a stage of the encoder or decoder is not called as a module, so that its weights are not gathered"
            raise InputError(f"{_SETTING}: {reason}: call it, stage(x), or train without {_SETTING}") from error
        if is_sharded and "its data is not allocated" in str(error):
            reason = "the loss takes derivatives of derivatives, for which weights are not gathered"
            raise InputError(f"{_SETTING}: {reason}: train without {_SETTING}") from error
        raise


def _check_not_tied(model: nn.Module, stages: list[nn.Module]) -> None:
    owned = {id(parameter) for stage in stages for parameter in stage.parameters()}
    inside = {module for stage in stages for module in stage.modules()}
    owners = Counter(id(parameter) for stage in stages for parameter in stage.parameters())
    owners.update(
        id(parameter) for module in model.modules() if module not in inside for parameter in module._parameters.values()
    )
    for name, parameter in model.named_parameters():
        if id(parameter) in owned and owners[id(parameter)] > 1:
            raise InputError(f"{_SETTING} can't share out {name}, which several parts hold: train without {_SETTING}")


def _on_meta(tensor: Any) -> Any:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
