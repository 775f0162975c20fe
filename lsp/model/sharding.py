"""A whole model goes in; one whose layers are sharded over a run's processes comes out (FSDP2).

Each decoder layer's parameters, gradients and optimizer state lie in parts, one in each process;
embedding, last norm and vocabulary head are whole everywhere, so that the head runs in tiles beside
the decoder. A layer is gathered for its pass and freed again (arXiv 2304.11277). Inside ``whole``
all layers are gathered, once, and nothing waits for another process: processes write answers of
different numbers and lengths, and one that has nothing left to write would hold up all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lsp.model.processes import Processes


def shard_layers(model: PreTrainedModel, processes: Processes) -> None:
    """Keep only this process's part of each decoder layer."""
    mesh = init_device_mesh(model.device.type, (processes.size,))
    layers = [m for m in model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no decoder layers that could be sharded; choose"
            " hardware.parallel=ddp"
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """The model's weights are all here inside; every process enters. Nothing changes for a model
    that is not sharded."""
    layers = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.reshard()
            layer.set_reshard_after_forward(True)


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def full(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """``value``, sharded as ``target`` is; every process calls it with the same value."""
    if isinstance(target, DTensor):
        return distribute_tensor(value, target.device_mesh, target.placements)
    return value
