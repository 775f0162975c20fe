"""The command of the vLLM server that a run needs: what it says, and what cannot be served."""

import shlex
import subprocess
import sys

import pytest

from lsp.errors import RunError
from lsp.serve import EXTENSION, address_of, main, server_commands
from lsp.settings.compose import compose

VLLM = ["rollout.engine=vllm", "rollout.url=http://127.0.0.1:8000", "runtime.device=cpu"]


def options_of(command):
    """Option -> its value, or True where it has none."""
    words, found = command.words[1:], {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("-"):
            found[word] = True if after.startswith("-") else after
    return found


def command_of(*more):
    (command,) = server_commands(compose([*VLLM, *more]), "python")
    return command


def test_all_weights_come_through_the_extension_into_the_served_policy():
    command = command_of()
    assert command.environment == {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(EXTENSION)}
    assert [path.name for path in EXTENSION.glob("*.py")] == ["lsp_weights.py"]
    model = command.words[command.words.index("--model") + 1]
    assert model == str(EXTENSION.parents[1] / "pocket" / "base")
    assert options_of(command) == {
        "-m": "vllm.entrypoints.openai.api_server",
        "--model": model,
        "--served-model-name": "policy",
        "--dtype": "float32",
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
        "--max-model-len": "128",  # the shipped base's context
        "--max-num-seqs": "192",  # 24 queries of 8 answers
        "--worker-extension-cls": "lsp_weights.NewWeights",
        # 192 blocks of 128 tokens, each 2 x 2 layers x 4 heads x 16 numbers x 4 bytes
        "--kv-cache-memory-bytes": str(192 * 128 * 2 * 2 * 4 * 16 * 4),
        "--enforce-eager": True,
        "--no-enable-chunked-prefill": True,
        "--max-num-batched-tokens": "4096",
        "--host": "127.0.0.1",
        "--port": "8000",
    }


def test_adapters_need_no_door_for_weights_and_lie_beside_the_served_reference():
    command = command_of("model.lora.rank=12")
    assert command.environment == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "PYTHONPATH": ""}
    options = options_of(command)
    assert (options["--served-model-name"], options["--max-lora-rank"]) == ("reference", "16")
    assert "--enable-lora" in options and "--worker-extension-cls" not in options
    with pytest.raises(RunError, match="adapters of rank 512 at most, and this run's 513"):
        command_of("model.lora.rank=513")


def test_on_a_gpu_vllm_takes_the_room_that_it_finds():
    options = options_of(command_of("runtime.device=cuda", "rollout.engine.dtype=bfloat16"))
    assert options["--dtype"] == "bfloat16"
    assert not {"--kv-cache-memory-bytes", "--enforce-eager"} & options.keys()


def test_no_more_rows_get_room_than_may_be_in_flight():
    options = options_of(command_of("rollout.engine.concurrency=10"))
    assert options["--max-num-seqs"] == "10"
    assert options["--kv-cache-memory-bytes"] == str(10 * 128 * 1024)


def test_each_address_has_a_command_and_what_stands_behind_two_dashes_is_vllms(capsys):
    urls = "rollout.url=[http://127.0.0.1:8000,http://10.0.0.2]"
    main([*VLLM, urls, "python=/x y/python", "--", "--tensor-parallel-size", "2"])
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("VLLM_SERVER_DEV_MODE=1 PYTHONPATH=") and "'/x y/python' -m" in first
    assert shlex.split(first)[-6:-2] == ["--host", "127.0.0.1", "--port", "8000"]
    assert shlex.split(second)[-6:] == [
        *("--host", "10.0.0.2", "--port", "80"),
        *("--tensor-parallel-size", "2"),
    ]
    assert "whoever reaches http://10.0.0.2 can change its weights" in err
    assert "127.0.0.1" not in err
    assert address_of("https://[::1]/x") == ["--host", "::1", "--port", "443"]


def test_start_becomes_the_server(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "mode $VLLM_SERVER_DEV_MODE, path $PYTHONPATH, $*"\n')
    python.chmod(0o755)
    words = [sys.executable, "-m", "lsp.serve", "start=true", f"python={python}", *VLLM]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    command, said = done.stdout.splitlines()
    assert command == str(server_commands(compose(VLLM), str(python))[0])
    assert said == f"mode 1, path {EXTENSION}, {shlex.join(shlex.split(command)[3:])}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "these settings ask no server; say rollout.engine=vllm"),
        (["rollout.engine=vllm"], "does not know its servers"),
        ([*VLLM, "start=true", "number=1"], "number=1: rollout.url has 1 addresses"),
        ([*VLLM, "start=true", "python=/no/such"], "/no/such cannot be started .*say python="),
        ([*VLLM, "init=grpo", "runs_root=/no/such"], "make it first, or start from init=base"),
    ],
)
def test_what_cannot_be_served_is_one_message(arguments, said):
    with pytest.raises(RunError, match=f"(?s){said}"):
        main(arguments)


def test_an_adapter_as_init_cannot_lie_beside_the_runs_own(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    init = ["init=checkpoint", f"init.run={tmp_path}"]
    with pytest.raises(RunError, match=r"merge it \(peft's merge_and_unload\)"):
        command_of(*init, "model.lora.rank=4")
    assert options_of(command_of(*init))["--served-model-name"] == "policy"
