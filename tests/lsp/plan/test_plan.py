"""The plan: parameters against transformers', memory against autograd and a process, refusal."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lsp.batch import pad
from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.logprobs import completion_hidden
from lsp.model.lora import add_lora
from lsp.model.shapes import lora_parameters, parameters, shape_of
from lsp.plan.hours import phase_times, total_hours
from lsp.plan.memory import GB, layer_saves, plan_memory, refuse_impossible, savings
from lsp.plan.step_size import Lengths, step_size_of
from lsp.plan.text import plan, scaling_table
from lsp.settings.compose import CONF, compose
from lsp.settings.config import LoraSettings
from lsp.settings.gpus import GPUS
from lsp.settings.phases import STEP_PHASES
from lsp.types import TrainingRow

ROOT = Path(__file__).parents[3]
PUBLISHED = {
    "llama_1b": 1_235_814_400,
    "llama_3b": 3_212_749_824,
    "llama_8b": 8_030_261_248,
    "llama_70b": 70_553_706_496,
    "qwen_0.5b": 494_032_768,
}
"""What the models' pages on the Hub count."""
PAPER = ["experiment=paper_v1/lsp"]
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for path in (CONF / "experiment").rglob("*.yaml")
)


def overrides_of(name):
    """Of an experiment; a laptop's model is made by a command, and its Hub's copy has its shape."""
    return [
        f"experiment={name}",
        *["model=smollm2_135m"] * name.startswith(("laptop/", "instructions/135m")),
    ]


def model_config(shape, **more):
    kind = "qwen3" if shape.qk_norm else "qwen2" if shape.qkv_bias else "llama"
    return transformers.AutoConfig.for_model(
        kind, vocab_size=shape.vocabulary, hidden_size=shape.hidden,
        intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size, tie_word_embeddings=shape.tied, pad_token_id=0, **more,
    )  # fmt: skip


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    shape = compose(["world=paper", f"model={name}"]).model.shape
    assert parameters(shape) == PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(shape))
    assert count(model) == PUBLISHED[name]
    assert (CONF / "model" / f"{name}.yaml").read_text().startswith(f"# {PUBLISHED[name]:,} ")
    if name == "qwen_0.5b":
        add_lora(model, LoraSettings(rank=4, alpha=8.0))
        added = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
        assert lora_parameters(shape, 4) == added


@pytest.mark.parametrize("name", ["skywork", "skywork_0.6b"])
def test_a_classifier_has_one_row_for_a_head(name):
    shape = compose(["world=paper", f"reward={name}"]).reward.shape
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(model_config(shape, num_labels=1))
    assert parameters(shape, classifier=True) == count(model)


def test_a_folder_tells_its_own_shape(llama_folder, players):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    assert parameters(shape_of(str(llama_folder), None, "model.shape")) == count(model)
    assert parameters(shape_of("pocket", None, "model.shape")) == count(players.policy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [0, 4])
def test_what_a_layer_keeps_is_what_autograd_saves(dtype, rank):
    rows, prompt, new = 4, 24, 64
    kept = []
    for layers in (1, 2):
        shape = replace_layers(compose(["world=paper"]).model.shape, layers)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            model_config(shape, attn_implementation="sdpa"), dtype=getattr(torch, dtype)
        ).eval()
        if rank:
            add_lora(model, LoraSettings(rank=rank, alpha=8.0))
        kept.append(saved_bytes(model, rows, prompt, new))
    width = {"float32": 4, "bfloat16": 2}[dtype]
    planned = layer_saves(shape, width, rank, prompt)
    planned += layer_saves(shape, width, rank, rows * new, rows, prompt + new)
    assert planned == pytest.approx(kept[1] - kept[0], rel=0.01)


def test_a_step_has_the_same_phases_in_memory_and_in_hours():
    """Those of the metrics ``time/<phase>``: tests/lsp/model/test_out_of_memory.py."""
    lsp = step_size_of(compose([*PAPER, "hardware=gpu_80gb"]))
    assert list(plan_memory(lsp).phases) == list(phase_times(lsp)) == list(STEP_PHASES)
    grpo = step_size_of(compose(["method=grpo"]))  # a verifier holds no model
    assert list(plan_memory(grpo).phases) == list(phase_times(grpo)) == ["answers", "update"]
    text = plan(lsp.config)
    for phase in STEP_PHASES:
        assert len(re.findall(rf"^    {phase} .*(?:weights|tokens)", text, re.MULTILINE)) == 2
    documented = (ROOT / "docs" / "scaling.md").read_text()
    assert all(f"`{phase}`" in documented for phase in STEP_PHASES)


def test_each_role_writes_in_a_phase_of_its_own():
    shape = compose(PAPER).model.shape
    small = [*PAPER, "hardware=gpu_80gb", "rollout.max_rows=8"]
    phases = plan_memory(step_size_of(compose(small), Lengths(100, 300, 400))).phases
    token = 2 * 28 * 8 * 128 * 2  # keys and values of 28 layers, 8 heads of 128 numbers, 2 bytes
    assert (shape.layers, shape.kv_heads, shape.head_size) == (28, 8, 128)
    assert phases["queries"]["KV cache"] == 8 * (100 + 256) * token
    assert phases["answers"]["KV cache"] == 8 * (300 + 1024) * token
    asks = plan_memory(step_size_of(compose(
        [*small, "method=frozen_challenger", "hardware.offload=true"]
    ))).phases  # fmt: skip
    assert "reference" in asks["queries"] and "reference" not in asks["answers"]


def test_an_engine_elsewhere_is_named_and_not_counted(monkeypatch):
    overrides = [*PAPER, "hardware=gpu_80gb"]
    here = plan_memory(step_size_of(compose(overrides))).phases
    monkeypatch.setattr("lsp.rollout.settings.InProcess.in_process", False)
    size = step_size_of(compose(overrides))
    there = plan_memory(size).phases
    written = {"KV cache": here["answers"]["KV cache"], "activations": mock.ANY}
    assert here["answers"] == there["answers"] | written
    assert here["update"] == there["update"]
    assert list(phase_times(size)) == ["reward", "quality", "update"]
    assert "not counted: memory and hours of InProcess, which writes elsewhere" in plan(size.config)


def replace_layers(shape, layers):
    return replace(shape, layers=layers, hidden=96, intermediate=256, heads=6, kv_heads=2,
                   head_size=16, vocabulary=100)  # fmt: skip


def saved_bytes(model, rows, prompt, new):
    """Of the storages that a pass keeps for its gradient, the weights' left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, tensors = {}, []

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)  # held, so that no address is used twice
        return tensor

    batch = pad(
        [TrainingRow("solver", (1,) * prompt, (2 + i,) * (new + 1), (), 0.0, 0.0, 1)
         for i in range(rows)]
    )  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        completion_hidden(model, batch)
    return sum(kept.values())


def test_the_3b_experiment_fits_a_24_gb_gpu_by_lora_and_an_80_gb_gpu_in_full():
    small, large = (compose([*PAPER, f"hardware=gpu_{gb}gb"]) for gb in (24, 80))
    assert small.model.lora.rank > 0 and large.model.lora.rank == 0
    for config in (small, large):
        refuse_impossible(config)
        assert config.hardware.gpu_memory_gb < GPUS[config.hardware.gpu].memory_gb
    parts = plan_memory(step_size_of(large)).phases["update"]
    n = 3_212_749_824
    assert parts["weights"] == 4 * n and parts["optimizer"] == 8 * n and parts["gradients"] == 4 * n
    assert parts["rounded weights"] < 2 * n / 4 and parts["reference"] == 2 * n
    assert plan_memory(step_size_of(large)).phases["answers"]["rounded weights"] == 2 * n
    assert "reference" not in plan_memory(step_size_of(small)).phases["update"]


def test_adapters_that_are_merged_while_rows_are_written_are_counted():
    fp32 = [*PAPER, "hardware=gpu_80gb", "model.lora.rank=16", "model.dtype=float32"]
    phases = plan_memory(step_size_of(compose(fp32))).phases
    # Llama-3.2-3B without its embedding and norms: 28 layers.
    layer = 2 * 3072 * 3072 + 2 * 3072 * 1024 + 3 * 3072 * 8192
    assert phases["answers"]["merged weights"] == phases["queries"]["merged weights"]
    assert phases["answers"]["merged weights"] == 4 * 28 * layer
    assert "merged weights" not in phases["update"]
    half = plan_memory(step_size_of(compose([*fp32, "model.dtype=bfloat16"]))).phases
    assert "merged weights" not in half["answers"]


def test_hardware_is_above_the_world_and_the_command_line_above_hardware():
    config = compose([*PAPER, "hardware=gpu_24gb"])
    assert (config.model.dtype, config.rollout.max_rows) == ("bfloat16", 32)
    assert config.optim.lr == 1e-6  # the world's
    config = compose([*PAPER, "hardware=gpu_24gb", "model.lora.rank=64", "rollout.max_rows=8"])
    assert (config.model.lora.rank, config.rollout.max_rows) == (64, 8)
    config = compose(["experiment=small/lsp", "hardware=gpu_80gb"])
    assert config.hardware.gpu == "h100" and config.model.name == "Qwen/Qwen2.5-0.5B-Instruct"


def test_what_cannot_fit_is_refused_with_what_each_setting_saves(tmp_path, capsys):
    overrides = [*PAPER, "hardware=gpu_24gb", "model.lora.rank=0", "tracker=none",
             f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    for more in ([], ["dry_run=true"]):
        with pytest.raises(
            RunError, match=r"hardware.gpu_memory_gb=23.5; alone, model.lora.rank=16 sa"
        ):
            start([*overrides, *more])
    assert "by phase and part" in capsys.readouterr().out  # a dry run shows the plan first
    assert not (tmp_path / "run").exists()
    # What a setting is said to save is what it saves.
    config = compose(overrides)
    (best, saved), *_ = savings(config)
    peak = plan_memory(step_size_of(config)).peak
    assert peak - plan_memory(step_size_of(compose([*overrides, best]))).peak == saved


def test_sharding_and_offload_lower_what_they_say():
    full = [*PAPER, "hardware=gpu_80gb", "hardware.gpus=8"]
    whole = plan_memory(step_size_of(compose(full))).phases
    fsdp = plan_memory(step_size_of(compose([*full, "hardware.parallel=fsdp"]))).phases
    for part in ("weights", "optimizer", "gradients"):
        assert fsdp["update"][part] * 8 == whole["update"][part]
    assert "gradients" in whole["answers"] and "gradients" not in fsdp["answers"]
    assert fsdp["answers"]["gathered weights"] > fsdp["update"]["gathered weights"]
    away = plan_memory(step_size_of(compose([*full, "hardware.offload=true"]))).phases
    assert {"reference", "reward model"}.isdisjoint(away["answers"])
    assert "reference" in away["update"] and "reward model" not in away["update"]


def test_a_plan_is_for_the_processes_that_are_there(monkeypatch):
    overrides = [*PAPER, "hardware=gpu_80gb", "hardware.parallel=fsdp"]
    eight = plan_memory(step_size_of(compose([*overrides, "hardware.gpus=8"])))
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert plan_memory(step_size_of(compose(overrides))) == eight
    assert "in each GPU of 8 (fsdp)" in plan(compose(overrides))
    here, there = (plan(compose([f"hardware={name}"])) for name in ("cpu", "gpu_80gb"))
    assert "not counted: what the C library keeps" in here and "C library" not in there


def test_what_is_not_known_is_named_and_not_guessed():
    text = plan(compose([*PAPER, "model.name=someone/model", "hardware=gpu_24gb"]))
    assert "not known: someone/model is a Hub model whose shape is not known" in text
    text = plan(compose([*PAPER, "reward.name=someone/reward"]))
    assert "not counted: the reward model: someone/reward is a Hub model" in text
    assert "hours     not known: " in text and "name a GPU with hardware.gpu" in text
    own = compose([*PAPER, "model.name=mine/tuned", "model.shape.of=mine/tuned"])
    assert "3,212,749,824 parameters" in plan(own)
    with pytest.raises(ValueError, match="hardware.gpu=rtx9999: is no GPU of"):
        compose(["hardware.gpu=rtx9999"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_says_its_command_and_what_it_costs(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"#   python run.py experiment={name}" in text
    costs = re.findall(
        r"([\d.]+) GB, at most ([\d.,]+) hours(?=[^;]*hardware=(\w+))", text.replace("\n# ", " ")
    )
    assert costs
    for gigabytes, hours, hardware in costs:
        size = step_size_of(compose([*overrides_of(name), f"hardware={hardware}"]))
        refuse_impossible(size.config)
        assert plan_memory(size).peak / GB == pytest.approx(float(gigabytes), rel=0.05)
        assert total_hours(size) == pytest.approx(float(hours.replace(",", "")), rel=0.1)
    assert name.startswith("paper") == ("The paper gives no learning rate" in text)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_is_planned_where_nothing_else_is(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lsp.plan.memory.memory_bytes", lambda: None)  # this machine's
    command = [*overrides_of(name), "dry_run=true", f"runs_root={tmp_path}"]
    if "_from_" in name:  # planned, and refused after that
        with pytest.raises(RunError, match="^init=.*: there is no finished run .*; make one with"):
            start(command)
    else:
        assert start(command) is None
    out = capsys.readouterr().out
    assert "by phase and part" in out and "not known: someone" not in out
    assert ("  init      missing: init=" in out) == ("_from_" in name)


def test_a_plan_imports_no_torch():
    code = "import sys; from lsp.loop.launch import start;"
    code += " start(['experiment=small/lsp', 'dry_run=true']); assert 'torch' not in sys.modules"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True,
                   capture_output=True)  # fmt: skip


def test_the_docs_show_the_table_and_the_gpus():
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling_table() in text
    for name, gpu in GPUS.items():
        numbers = f"{gpu.memory_gb:g} | {gpu.bfloat16:g} | {gpu.float32:g} | {gpu.bandwidth:g}"
        assert f"| `{name}` | {numbers} | {gpu.source} |" in text


@pytest.mark.slow
@pytest.mark.parametrize("case", range(8))
def test_a_process_peaks_where_the_plan_says(case, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tests.bench import memory, step

    assert len(memory.CASES) == 8
    case = memory.CASES[case]
    step.build_model(tmp_path, case.size, case.lsp)
    planned = memory.planned(str(tmp_path), case).peak
    measured = memory.measure(str(tmp_path), case)
    assert planned == pytest.approx(measured, rel=0.15)


def test_lengths_that_are_known_replace_the_estimate():
    config = compose([*PAPER, "hardware=gpu_80gb"])
    short = plan_memory(step_size_of(config, Lengths(10, 10, 10))).phases["answers"]["KV cache"]
    assert short < plan_memory(step_size_of(config)).phases["answers"]["KV cache"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--lora",)])
def test_the_gpu_bench_runs_shrunk_without_one(flags):
    command = [sys.executable, "-m", "tests.bench.gpu", "--shrunk", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for words in ("the Solver writes", "a step", "of the floor", "of a large product's"):
        assert words in done.stdout
