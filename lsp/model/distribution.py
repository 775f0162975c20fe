"""A run's settings and its policy go in; accelerate, which wraps them for its processes, comes out.

``hardware.parallel=ddp`` keeps whole weights in each process (torch's DDP, arXiv 2006.15704);
``fsdp`` keeps parts of parameters, gradients and optimizer state, and gathers a layer for its pass
(FSDP2, arXiv 2304.11277; with accelerate's ``dp_replicate_size``, HSDP). Inside ``whole`` all of
them are gathered, once, and nothing waits for another process: processes write answers of different
numbers and lengths, and one that has nothing left to write would hold up all others.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    modules = model.get_decoder().modules()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer)]


def accelerator_for(
    policy: PreTrainedModel, shards: bool, dtype: torch.dtype | None
) -> Accelerator:
    """Of this process. ``shards``: over all processes, as ``accelerate launch`` was asked for
    beside that; ``dtype``: that sharded weights compute in, None for their own. Models stay on the
    device that they are on. Raises ValueError where nothing can be sharded."""
    plugin = None
    if shards:
        named = "FSDP_TRANSFORMER_CLS_TO_WRAP" in os.environ  # by accelerate's settings
        kinds = {type(layer).__name__ for layer in decoder_layers(policy)}
        if not kinds:
            raise ValueError(
                f"{type(policy).__name__} has no decoder layers that could be sharded; choose"
                " hardware.parallel=ddp"
            )
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=sorted(kinds) if not named else None,
            cpu_ram_efficient_loading=False,
            # Inputs are reference scores, which stay exact.
            mixed_precision_policy=MixedPrecisionPolicy(
                param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
        )
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run's of this process
    return Accelerator(
        device_placement=False,
        cpu=policy.device.type != "cuda",
        mixed_precision="no",  # precision.py and the policy above
        fsdp_plugin=plugin,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )


def is_sharding(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


@contextmanager
def whole(root: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """The weights of a module that ``prepare`` sharded are all here inside; every process
    enters."""
    reshards = accelerator.state.fsdp_plugin.reshard_after_forward
    parts = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        if part is not root:
            part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            if part is not root:
                part.set_reshard_after_forward(reshards, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; every process calls it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """``value``, sharded as ``target`` is; every process calls it with the same value."""
    if is_sharded(target):
        return distribute_tensor(value, target.device_mesh, target.placements)
    return value
