"""What ``accelerate launch`` was asked for is taken as given, or refused with the way out."""

import pytest

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.launcher import check_launch
from lsp.settings.compose import compose

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("variables", "settings", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, [], "FSDP; say hardware.parallel=fsdp"),
        (
            {**FSDP, "FSDP_VERSION": "1"},
            ["hardware.parallel=fsdp"],
            "FSDP of version 1; say fsdp_version: 2",
        ),
        (
            {**FSDP, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"},
            ["hardware.parallel=fsdp"],
            "size-based wrapping, and decoder layers are sharded here",
        ),
        (
            {**FSDP, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            ["hardware.parallel=fsdp"],
            "leaves all processes but the first without weights, and each needs its reference",
        ),
        (
            {**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            ["hardware.parallel=fsdp"],
            "say optim.gradient_checkpointing=true",
        ),
        (
            {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"},
            ["hardware.parallel=fsdp"],
            "trained weights stay on the GPU here",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            [],
            "DeepSpeed .ZeRO 3., whose engine updates inside its last backward pass",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, [], "Megatron-LM, and models are those"),
        (
            {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
            [],
            "a parallelism_config without FSDP; say hardware.parallel=fsdp and use_fsdp: true",
        ),
        (
            {"PARALLELISM_CONFIG_TP_SIZE": "2"},
            [],
            "tp_size=2, and each process takes rows of its own",
        ),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            [],
            "gradient_accumulation_steps=4, .* follows from optim.micro_batch_tokens",
        ),
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16"},
            [],
            "--mixed_precision=bf16, .* say model.dtype=bfloat16",
        ),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, [], "a dynamo backend, and nothing is compil"),
    ],
)
def test_a_contradiction_is_one_message(monkeypatch, variables, settings, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=f"accelerate launch was asked for .*{message}"):
        check_launch(compose(settings), 2)


def test_it_is_said_before_anything_is_made(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    run = tmp_path / "run"
    with pytest.raises(RunError, match="FSDP2 keeps the same parts"):
        start([*small, "tracker=none", f"run_dir={run}"])
    assert not run.exists()


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ["model.dtype=bfloat16"]),
        ({**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}, ["hardware.parallel=fsdp"]),
        (
            {
                **FSDP,
                "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
                "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
                "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
                "PARALLELISM_CONFIG_TP_SIZE": "1",
            },
            ["hardware.parallel=fsdp"],
        ),
    ],
)
def test_what_agrees_is_taken(monkeypatch, variables, settings):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launch(compose(settings), 4)
