"""What ``accelerate launch`` was asked for goes in; a RunError comes out where settings differ.

torchrun and ``accelerate launch`` (its flags or --config_file) start as many processes as they are
told to, and the latter says more, in the environment. What it says of sharding is taken as given
(lsp/model/distribution.py); what a setting of the run decides must not say something else.
"""

import os

from lsp.errors import RunError
from lsp.settings.config import Config

NOT_TAKEN = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, and models are those of transformers here",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "fsdp_cpu_ram_efficient_loading, which leaves all processes"
    " but the first without weights, and each needs its reference",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing, which knows nothing of prompts"
    " that rows share; say optim.gradient_checkpointing=true",
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params, and trained weights stay on the GPU here;"
    " hardware.offload=true moves reference and reward model off it",
}
"""Variable that ``accelerate launch`` sets to true -> what is said of it."""


def check_launch(config: Config, size: int) -> None:
    """Raises RunError where a launcher that started ``size`` processes was asked for something else
    than the config says."""
    hardware = config.hardware
    if hardware.gpus not in (None, size):
        raise RunError(
            f"hardware.gpus={hardware.gpus}, and the processes of this run are {size};"
            f" start it by torchrun --nproc_per_node={hardware.gpus} (over several machines:"
            " docs/cluster.md), or say hardware.gpus=null"
        )
    if problem := _contradiction(config):
        raise RunError(f"accelerate launch was asked for {problem}")


def _contradiction(config: Config) -> str:
    leave_out, dtype = "leave it out of accelerate's settings", config.model.dtype
    for variable, problem in NOT_TAKEN.items():
        if _asked(variable):
            return f"{problem}; {leave_out}"
    sharded = config.hardware.parallel
    if _asked("ACCELERATE_USE_DEEPSPEED"):
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "of a config file")
        return (
            f"DeepSpeed (ZeRO {stage}), whose engine updates inside its last backward pass, before"
            " it is known whether loss and gradient are finite in all processes; FSDP2 keeps the"
            " same parts: hardware.parallel=fsdp, and for those of ZeRO-2"
            " fsdp_reshard_after_forward: false"
        )
    if _asked("ACCELERATE_USE_FSDP"):
        if sharded != "fsdp":
            return f"FSDP; say hardware.parallel=fsdp, or {leave_out}"
        if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            return f"FSDP of version {version}; say fsdp_version: 2"
        if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
            return f"size-based wrapping, and decoder layers are sharded here; {leave_out}"
    elif _asked("ACCELERATE_USE_PARALLELISM_CONFIG"):
        return "a parallelism_config without FSDP; say hardware.parallel=fsdp and use_fsdp: true"
    for kind in ("TP", "CP", "SP"):
        size = os.environ.get(f"PARALLELISM_CONFIG_{kind}_SIZE", "1")
        if size not in ("1", "None"):
            wanted = f"{kind.lower()}_size={size}"
            return f"{wanted}, and each process takes rows of its own; {leave_out}"
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        return (
            f"gradient_accumulation_steps={steps}, and how many passes an update takes follows from"
            f" optim.micro_batch_tokens; {leave_out}"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        return f"a dynamo backend, and nothing is compiled here; {leave_out}"
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", {"bfloat16": "bf16"}.get(dtype)):
        return (
            f"--mixed_precision={precision}, and this run has model.dtype={dtype}; say"
            " model.dtype=bfloat16 (trained weights are fp32 beneath) for bf16, or"
            " --mixed_precision=no"
        )
    return ""


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
