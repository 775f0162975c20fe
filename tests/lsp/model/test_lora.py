"""LoRA: the reference is the init, the engine and the trainer agree, checkpoints load anywhere."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.language_model import load_model
from lsp.model.lora import add_lora, lora_layers, merge_adapter, merged_state
from lsp.model.onednn import OneDnnLinear, available, decoding_weights
from lsp.players import load_players
from lsp.run.init import resolve_init
from lsp.settings.compose import compose
from lsp.settings.config import LoraSettings
from lsp.tracking.reader import read_metrics, read_trace

pytestmark = pytest.mark.usefixtures("without_pictures")
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


onednn = pytest.mark.skipif(not available(), reason="this torch has no oneDNN product here")


@pytest.mark.parametrize("kind", [nn.Linear, pytest.param(OneDnnLinear, marks=onednn)])
def test_decoding_takes_merged_weights_and_leaves_the_model_as_it_was(lora_players, kind):
    """As on a GPU, and as on a CPU, where oneDNN has the larger layers (none of pocket's)."""
    policy = lora_players.policy
    for layer in lora_layers(policy).values():
        layer.base_layer.__class__ = kind
    perturb(policy)
    expected = logits_of(policy)
    before = {name: (p, p.requires_grad) for name, p in policy.named_parameters()}
    with pytest.raises(RuntimeError), decoding_weights(policy, 32):
        assert torch.allclose(logits_of(policy), expected, atol=1e-5)
        assert all(layer.disable_adapters for layer in lora_layers(policy).values())
        raise RuntimeError
    assert torch.equal(logits_of(policy), expected)
    after = dict(policy.named_parameters())
    assert after.keys() == before.keys()
    for name, (parameter, trained) in before.items():
        assert after[name] is parameter and parameter.requires_grad == trained


def test_in_bfloat16_adapters_stay_apart(lora_players):
    policy = lora_players.policy.to(torch.bfloat16)
    perturb(policy)
    expected = logits_of(policy)
    with decoding_weights(policy, 32):
        assert torch.equal(logits_of(policy), expected)


def test_the_engine_agrees_with_the_trainer_and_kl_starts_at_zero(small, train_in_memory):
    lines, _ = train_in_memory([*small, *LORA, "optim.lr=0.01"])
    assert lines[0]["kl/solver/k2"] < 1e-12 and lines[0]["kl/challenger/k2"] < 1e-12
    assert lines[-1]["kl/solver/k2"] > 0
    assert all(line["rollout/logprob_mismatch"] < 1e-4 for line in lines)


@pytest.mark.slow
def test_a_resumed_run_repeats_and_its_checkpoint_is_a_plain_model(small, tmp_path):
    shape = [*small, *LORA, "tracker=none", "optim.lr=0.01", "checkpoint.every=2",
             "checkpoint.keep=9"]  # fmt: skip
    start([*shape, "num_steps=4", f"run_dir={tmp_path / 'whole'}"])
    start([*shape, "num_steps=2", f"run_dir={tmp_path / 'parts'}"])
    start([f"resume={tmp_path / 'parts'}", "num_steps=4"])
    expected, resumed = (
        [{**row, "run_id": ""} for row in read_trace(tmp_path / name, [3, 4])]
        for name in ("whole", "parts")
    )
    assert resumed == expected
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
        add_lora(transformers.MixtralForCausalLM(config), LoraSettings(rank=4, alpha=8.0))


def saved_adapter(base, folder, copies="auto", train=(), **settings):
    """A peft adapter that does something, written as peft writes it; the logits with it.
    ``copies``: peft's save_embedding_layers; ``train``: parts of names of what is trained whole."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_model(base, "float32", torch.device("cpu"))
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(4)
    adapted = get_peft_model(model, LoraConfig(**(usual | settings))).eval()
    perturb(adapted)
    for name, parameter in adapted.named_parameters():
        if any(part in name for part in train) and "lora_" not in name:
            parameter.data += torch.randn(parameter.shape, generator=torch.manual_seed(6))
    adapted.save_pretrained(folder, save_embedding_layers=copies)
    return logits_of(adapted)


def from_adapter(base, folder):
    return [f"model.name={base}", "init=checkpoint", f"init.run={folder}"]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_as_init_is_merged_into_the_base(small, llama_folder, tmp_path, rank, dtype):
    expected = saved_adapter(llama_folder, tmp_path / "adapter")
    from_it = from_adapter(llama_folder, tmp_path / "adapter")
    config = compose([*small, *from_it, f"model.lora.rank={rank}", f"model.dtype={dtype}"])
    init = resolve_init(config)
    assert "adapter" in init.text and init.is_adapter
    loaded = load_players(config, init, None)
    policy, reference = loaded.policy, loaded.reference
    assert not lora_layers(reference) and bool(lora_layers(policy)) == bool(rank)
    assert {p.dtype for p in reference.parameters()} == {getattr(torch, dtype)}
    assert torch.equal(logits_of(policy), logits_of(reference))
    tolerance = 1e-4 if dtype == "float32" else 0.5
    assert torch.allclose(logits_of(reference).float(), expected, atol=tolerance)
    shared = {p.data_ptr() for p in policy.parameters()}
    assert all((p.data_ptr() in shared) == bool(rank) for p in reference.parameters())
    # What is trained: everything, or the new adapters alone.
    assert all(p.requires_grad == ("lora_" in n or not rank) for n, p in policy.named_parameters())
    assert not any(p.requires_grad for p in reference.parameters())
    # In fp32 before it is rounded: bfloat16 weights are the rounded fp32 ones.
    exact, _ = load_model(llama_folder, "float32", torch.device("cpu"))
    if dtype == "float32":
        merge_adapter(exact, tmp_path / "adapter")
        for a, b in zip(exact.parameters(), reference.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("rank", [0, 4])
def test_kl_is_zero_at_the_first_step_of_a_run_from_an_adapter(
    llama_folder, tmp_path, rank, monkeypatch
):
    saved_adapter(llama_folder, tmp_path / "adapter")
    # A reward in which a random model's answers differ, so that there is something to learn.
    code = (
        "def vowels(queries, answers): return [float(sum(map(a.count, 'aeiou'))) for a in answers]"
    )
    (tmp_path / "own_vowels.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    reward = ["reward=callable", "reward.path=own_vowels.vowels"]
    run = tmp_path / "run"
    shape = ["num_queries=3", "group_size=2", "eval=none", "tracker=none", "objective=null",
             "method=grpo", "rollout.max_new_tokens=12", "checkpoint.every=1", *reward]  # fmt: skip
    start([*shape, *from_adapter(llama_folder, tmp_path / "adapter"), f"model.lora.rank={rank}",
           "num_steps=2", "optim.lr=0.01", "optim.warmup_steps=0", f"run_dir={run}"])  # fmt: skip
    first, last = (line["kl/solver/k2"] for line in read_metrics(run))
    assert first == 0.0 and last > 0
    # A resumed run has the same reference, and its checkpoint is a plain model.
    start([f"resume={run}", "num_steps=3", *reward])
    assert read_metrics(run)[-1]["kl/solver/k2"] > 0
    load_model(run / "checkpoints" / "step-000003", "float32", torch.device("cpu"))


def test_an_adapter_that_does_not_fit_is_refused(small, llama_folder, tmp_path):
    adapter = tmp_path / "adapter"
    saved_adapter(llama_folder, adapter)
    with pytest.raises(RunError, match=f"adapter of {llama_folder}, and this run's base is .*pock"):
        resolve_init(compose([*small, *from_adapter("pocket", adapter)]))

    def change(**values):
        config = json.loads((adapter / "adapter_config.json").read_text()) | values
        (adapter / "adapter_config.json").write_text(json.dumps(config))

    def load(base=llama_folder):
        config = compose([*small, *from_adapter(base, adapter)])
        load_players(config, resolve_init(config), None)

    change(base_model_name_or_path="pocket")  # its shapes still tell
    with pytest.raises(ValueError, match="cannot be merged into a Llama.*size mismatch"):
        load("pocket")
    change(base_model_name_or_path=str(llama_folder / ".." / llama_folder.name))
    load()
    weights = adapter / "adapter_model.safetensors"
    whole, tensors = weights.read_bytes(), load_file(weights)
    name = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    with pytest.raises(ValueError, match="1 of its weights are missing or have no layer"):
        load()
    weights.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cannot be merged"):
        load()
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors; give init\.run="):
        load()
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(RunError, match="its adapter_config.json"):
        load()


def test_an_adapter_of_another_revision_is_refused(small, tmp_path):
    config = {"base_model_name_or_path": "some/one", "revision": "abc"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    from_it = from_adapter("some/one", tmp_path)
    with pytest.raises(RunError, match="set model.revision=abc"):
        resolve_init(compose([*small, *from_it]))
    assert resolve_init(compose([*small, *from_it, "model.revision=abc"])).is_adapter


WHOLE_LAYERS = {
    "copies of the base's": {"copies": True},
    "a trained head": {"copies": True, "train": ["lm_head"]},
    "a trained embedding": {"copies": True, "train": ["embed_tokens"]},
    "an adapted head": {"target_modules": ["lm_head", "q_proj"]},
    "an adapted embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm"], "train": ["modules_to_save"],
                        "target_modules": ["q_proj"]},
}  # fmt: skip
"""What peft writes whole beside an adapter, and how."""


@pytest.mark.parametrize("kind", WHOLE_LAYERS)
def test_whole_layers_of_an_adapter_are_used_as_peft_uses_them(llama_folder, tmp_path, kind):
    expected = saved_adapter(llama_folder, tmp_path / "adapter", **WHOLE_LAYERS[kind])
    whole = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("lora_" not in name for name in whole)
    model, _ = load_model(llama_folder, "float32", torch.device("cpu"))
    without = saved_adapter(llama_folder, tmp_path / "without")
    merge_adapter(model, tmp_path / "adapter")
    assert torch.allclose(logits_of(model), expected, atol=1e-4)
    # Copies of the base's are no difference; what was trained is one.
    assert torch.allclose(without, expected, atol=1e-4) == (kind == "copies of the base's")


@pytest.fixture
def tied_folder(llama3_tokenizer, tmp_path):
    """A base whose embedding is its vocabulary head."""
    import transformers

    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(llama3_tokenizer), hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    llama3_tokenizer.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def test_copies_of_a_tied_embedding_are_merged_as_one(tied_folder, tmp_path):
    expected = saved_adapter(tied_folder, tmp_path / "a", copies=True, train=["embed_tokens"])
    model, _ = load_model(tied_folder, "float32", torch.device("cpu"))
    merge_adapter(model, tmp_path / "a")
    assert torch.allclose(logits_of(model), expected, atol=1e-4)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"target_modules": ["lm_head", "q_proj"]}, "computes something else once it is merged"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "changes the layers"),
    ],
)
def test_an_adapter_of_tied_embeddings_is_refused(tied_folder, tmp_path, settings, reason):
    """Merged into one of them it would change the other."""
    saved_adapter(tied_folder, tmp_path / "adapter", **settings)
    model, _ = load_model(tied_folder, "float32", torch.device("cpu"))
    with pytest.raises(ValueError, match=f"{reason}.* embedding and vocabulary head are one tens"):
        merge_adapter(model, tmp_path / "adapter")
