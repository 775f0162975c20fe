"""LoRA: the reference is the init, the engine and the trainer agree, checkpoints load anywhere."""

import json

import pytest
import torch

from lsp.compose import compose
from lsp.config import LoraSettings
from lsp.init import resolve_init
from lsp.lora import add_lora, lora_layers, merged_state
from lsp.models import load_model
from lsp.onednn import OneDnnLinear, available, decoding_weights
from lsp.players import load_players
from lsp.start import start
from lsp.tracking.reader import read_metrics, read_trace

LORA = ["model.lora.rank=4", "model.lora.alpha=8"]


@pytest.fixture
def lora_players(small):
    config = compose([*small, *LORA])
    return load_players(config, resolve_init(config), None)


def perturb(model):
    """Adapters that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(3))


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(12)[None]).logits


def test_the_reference_shares_the_inits_tensors_and_stays_the_init(lora_players):
    policy, reference = lora_players.policy, lora_players.reference
    before = logits_of(reference)
    assert torch.equal(logits_of(policy), before)  # KL is exactly 0 at the start
    shared = {p.data_ptr() for p in policy.parameters()}
    assert all(p.data_ptr() in shared for p in reference.parameters())
    assert not lora_layers(reference) and lora_layers(policy)
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    perturb(policy)
    assert torch.equal(logits_of(reference), before)
    assert not torch.allclose(logits_of(policy), before, atol=1e-2)


def test_merged_weights_are_new_ones_and_compute_the_same(lora_players):
    policy, reference = lora_players.policy, lora_players.reference
    perturb(policy)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    state = merged_state(policy)
    assert state.keys() == reference.state_dict().keys()
    plain = type(reference)(reference.config)
    plain.load_state_dict(state)
    assert torch.allclose(logits_of(plain.eval()), logits_of(policy), atol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN product here")
def test_decoding_takes_merged_weights_and_leaves_the_model_as_it_was(lora_players):
    policy = lora_players.policy
    for layer in lora_layers(policy).values():  # pocket's layers are below the size that pays
        layer.base_layer.__class__ = OneDnnLinear
    perturb(policy)
    expected = logits_of(policy)
    with decoding_weights(policy, 32):
        assert torch.allclose(logits_of(policy), expected, atol=1e-5)
        assert all(layer.disable_adapters for layer in lora_layers(policy).values())
    assert torch.equal(logits_of(policy), expected)
    assert all(p.requires_grad for n, p in policy.named_parameters() if "lora_" in n)


def test_the_engine_agrees_with_the_trainer_and_kl_starts_at_zero(small, tmp_path):
    start([*small, *LORA, f"run_dir={tmp_path / 'run'}", "tracker=none", "optim.lr=0.01"])
    lines = read_metrics(tmp_path / "run")
    assert lines[1]["kl/solver/k2"] < 1e-12 and lines[1]["kl/challenger/k2"] < 1e-12
    assert lines[-1]["kl/solver/k2"] > 0
    assert all(line["rollout/logprob_mismatch"] < 1e-4 for line in lines[1:])


def test_a_resumed_run_repeats_and_its_checkpoint_is_a_plain_model(small, tmp_path):
    shape = [*small, *LORA, "tracker=none", "optim.lr=0.01", "checkpoint.every=2",
             "checkpoint.keep=9"]  # fmt: skip
    start([*shape, "num_steps=4", f"run_dir={tmp_path / 'whole'}"])
    start([*shape, "num_steps=2", f"run_dir={tmp_path / 'parts'}"])
    start([f"resume={tmp_path / 'parts'}", "num_steps=4"])
    wanted, found = (
        [{**row, "run_id": ""} for row in read_trace(tmp_path / name, [3, 4])]
        for name in ("whole", "parts")
    )
    assert found == wanted
    folder = tmp_path / "whole" / "checkpoints" / "step-000004"
    model, _ = load_model(folder, "float32", torch.device("cpu"))
    assert not lora_layers(model)
    # As an init: another run starts from the merged weights, with adapters of its own.
    again = tmp_path / "again"
    start([*shape, "num_steps=1", f"run_dir={again}", "init=checkpoint",
           f"init.run={tmp_path / 'whole'}"])  # fmt: skip
    assert json.loads((again / "run.json").read_text())["init"]["method"] == "lsp"
    assert read_metrics(again)[-1]["kl/solver/k2"] < 1e-12


def test_adapters_that_cannot_be_merged_are_refused():
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_local_experts=2, sliding_window=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="cannot be merged into plain weights"):
        add_lora(transformers.MixtralForCausalLM(config), LoraSettings(4, 8.0))
