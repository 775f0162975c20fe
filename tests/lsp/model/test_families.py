"""Families of real models, tiny and random: our numbers are those of their own code.

Windows are of 8 tokens; prompts are longer and shorter, side by side, and one has several answers.
"""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers

from lsp.batch import pad
from lsp.model.context import context_of, context_text
from lsp.model.families import unsupported
from lsp.model.language_model import check_paths, load_model
from lsp.model.logprobs import completion_scores, log_distribution
from lsp.model.windows import FULL, SLIDING, narrowed, windowed
from lsp.rollout.in_process import InProcessEngine
from lsp.types import DrawKey, TrainingRow

LAYERS = [SLIDING, FULL, SLIDING]
GROUPED = {"num_key_value_heads": 2}
WINDOW = {**GROUPED, "sliding_window": 8}
HALF_ROTARY = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
FAMILIES = {
    "Gemma 3": ("Gemma3Text", {**WINDOW, "head_dim": 8, "layer_types": LAYERS}),
    "Qwen 3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "Qwen 3, windows": (
        "Qwen3",
        {**WINDOW, "head_dim": 8, "use_sliding_window": True, "layer_types": LAYERS},
    ),
    "Qwen 2.5, windows": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "Mistral 0.1": ("Mistral", WINDOW),
    "Mistral 0.3": ("Mistral", {**GROUPED, "sliding_window": None}),
    "Phi-3": ("Phi3", {"sliding_window": 8}),
    "Phi-4-mini": ("Phi3", {**WINDOW, "rope_parameters": HALF_ROTARY}),
    "SmolLM": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "SmolLM 3": ("SmolLM3", {**GROUPED, "no_rope_layers": [1, 1, 0]}),
    "OLMo 2": ("Olmo2", GROUPED),
    "OLMo 3": ("Olmo3", {**WINDOW, "layer_types": LAYERS}),
}


def shape(kind, **more):
    usual = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                 num_attention_heads=4, initializer_range=0.3, pad_token_id=None, bos_token_id=0,
                 eos_token_id=1, max_position_embeddings=128)  # fmt: skip
    return getattr(transformers, f"{kind}Config")(**{**usual, **more})


def family(name):
    kind, more = FAMILIES[name]
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(shape(kind, **more)).eval()


def tokens(count, seed):
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, 60, (count,), generator=source).tolist())


ROWS = [
    TrainingRow("solver", tokens(prompt, 10 * prompt), tokens(answer, i), (), 0.0, 0.0, 1)
    for i, (prompt, answer) in enumerate([(13, 12), (13, 3), (2, 11), (21, 6), (6, 1)])
]


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_and_gradients_are_those_of_a_plain_forward_pass(name):
    model = family(name)
    check_paths(model)
    plain = []
    for row in ROWS:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        logprobs = log_distribution(model(input_ids=ids, use_cache=False).logits[0, :-1])
        chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        plain.append(chosen[len(row.prompt_ids) - 1 :])
    expected = torch.cat(plain)
    weight_C = torch.linspace(-1, 1, len(expected))
    gradients = torch.autograd.grad((expected * weight_C).sum(), list(model.parameters()))
    found = completion_scores(model, pad(ROWS), 1.0).logprobs_C
    assert torch.allclose(found, expected, atol=1e-4)
    ours = torch.autograd.grad((found * weight_C).sum(), list(model.parameters()))
    for one, other in zip(ours, gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * max(1.0, other.norm())


NOBODY = SimpleNamespace(batch_decode=lambda rows, **_: [""] * len(rows))
"""A tokenizer whose texts nobody reads."""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine_writes_what_generate_writes(name):
    model = family(name)
    prompts = list(dict.fromkeys(row.prompt_ids for row in ROWS))
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=14,
            eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        expected.append(written[0, len(prompt) :].tolist())
    engine = InProcessEngine(NOBODY, {1}, max_rows=8)
    found = engine.generate(model, prompts, 2, 14, 0.0, DrawKey(0, 1, "solver"))
    for group, ids in zip(found, expected, strict=True):
        assert [list(completion.ids) for completion in group] == [ids, ids]


SHORT, LONG = [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 4.0, 8.0]
LONGROPE = {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG,
            "partial_rotary_factor": 1.0}  # fmt: skip
DYNAMIC = {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0}
BY_LENGTH = {
    "longrope": ("Phi3", {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}),
    "dynamic": ("Llama", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC}),
}


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_a_row_does_not_depend_on_its_neighbours(kind):
    """Rotary factors that transformers chooses by a batch's longest position: 32 tokens are within
    the limit in any company, a longest prompt beside a longest completion too; 33 are refused."""
    name, more = BY_LENGTH[kind]
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(shape(name, **more)).eval()
    assert context_of(model) == 32
    sizes = [(30, 2), (3, 20)]
    rows = [TrainingRow("solver", tokens(p, p), tokens(a, a), (), 0.0, 0.0, 1) for p, a in sizes]
    with torch.no_grad():
        together = completion_scores(model, pad(rows), 1.0).logprobs_C
        alone = torch.cat([completion_scores(model, pad([r]), 1.0).logprobs_C for r in rows])
    assert torch.allclose(together, alone, atol=1e-5)
    engine = InProcessEngine(NOBODY, {1}, max_rows=8)
    key = DrawKey(0, 1, "solver")
    prompts = [row.prompt_ids for row in rows]
    _, (beside,) = engine.generate(model, prompts, 1, 2, 0.0, key)
    ((apart,),) = engine.generate(model, prompts[1:], 1, 2, 0.0, key)
    assert beside.ids == apart.ids and beside.logprobs == pytest.approx(apart.logprobs, abs=1e-5)
    with pytest.raises(ValueError, match="3 new ones exceed the model's context of 32"):
        engine.generate(model, prompts, 1, 3, 0.0, key)


def test_the_limit_of_longrope_is_told_with_its_reason():
    kind, more = BY_LENGTH["longrope"]
    model = transformers.AutoModelForCausalLM.from_config(shape(kind, **more))
    assert context_text(model) == (
        "32 (of 128: beyond, longrope turns all rows of a batch by its longest one)"
    )
    # Settings by kind of layer; a model without a limit of its own.
    by_kind = SimpleNamespace(rope_parameters={
        FULL: LONGROPE | {"original_max_position_embeddings": 16}, SLIDING: {"rope_type": "default"}
    })  # fmt: skip
    assert context_of(SimpleNamespace(config=by_kind)) == 16
    assert context_of(family("Phi-4-mini")) == 128


WITH_WINDOWS = [name for name, (_, more) in FAMILIES.items() if more.get("sliding_window")]


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_a_window_that_is_left_out_would_be_noticed(name, monkeypatch):
    """The windows of these shapes act in the tests above, and in the check at load."""
    monkeypatch.setattr("lsp.model.logprobs.windowed", lambda config, sees, *positions: sees)
    with pytest.raises(ValueError, match="has other log-probabilities here"):
        check_paths(family(name))


def test_a_token_sees_itself_and_those_before_it_up_to_the_window():
    seen = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    places = torch.tensor([[4]]), torch.arange(5)[None]
    mask = windowed(shape("Mistral", sliding_window=3), seen, *places)
    assert mask[0, 0, 0].tolist() == [False, False, True, True, True]
    # By kind of layer where the config lists kinds.
    by_kind = windowed(shape("Olmo3", sliding_window=3, layer_types=LAYERS), seen, *places)
    assert by_kind[FULL] is seen and torch.equal(by_kind[SLIDING], mask)
    # Where no window can act nothing is made.
    for config in (
        shape("Llama"),
        shape("Mistral", sliding_window=5),
        shape("Olmo3", sliding_window=3, layer_types=[FULL] * 3),
    ):
        assert windowed(config, seen, *places) is seen


def test_windows_are_narrowed_for_the_check_alone():
    model = family("Mistral 0.1")
    with pytest.raises(RuntimeError), narrowed(model, 3):
        assert model.config.sliding_window == 3
        raise RuntimeError
    assert model.config.sliding_window == 8
    with narrowed(family("SmolLM"), 3) as nothing:
        assert nothing is None


@pytest.fixture
def run_of(llama3_tokenizer, tmp_path, train_in_memory):
    """Trains a random model for two steps on two instructions; its metrics, a line a step."""

    def made(kind, more, *settings):
        torch.manual_seed(3)
        config = shape(kind, **more, vocab_size=len(llama3_tokenizer))
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        llama3_tokenizer.save_pretrained(tmp_path)
        data = tmp_path / "data.jsonl"
        data.write_text('{"instruction": "Name one."}\n{"instruction": "Name another one."}')
        lines, _ = train_in_memory([
            f"model.name={tmp_path}", "data=alpaca", f"data.path={data}", "method=grpo",
            "objective=null", "num_steps=2", "num_queries=2", "group_size=2", "eval=none",
            "rollout.max_new_tokens=16", *settings,
        ])  # fmt: skip
        return lines

    return made


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_of_a_model_with_windows(run_of, rank):
    """Engine and trainer agree on every sampled token, and so do policy and reference at first."""
    lines = run_of(*FAMILIES["Gemma 3"], f"model.lora.rank={rank}")
    assert all(line["rollout/logprob_mismatch"] < 1e-4 for line in lines)
    assert lines[0]["kl/largest_difference"] == 0


def test_a_run_that_could_pass_the_limit_of_longrope_is_refused(run_of):
    with pytest.raises(ValueError, match="context of 32 .of 128: beyond, longrope turns all rows"):
        run_of(*BY_LENGTH["longrope"])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda: shape("Gemma2"), "final_logit_softcapping=30.0, attn_logit_softcapping=50.0 in"),
        (
            lambda: shape("Cohere2"),
            "changes its logits after the vocabulary head.*logit_scale=0.06",
        ),
        (lambda: shape("Mamba"), "has layers of the kind linear_attention"),
        (lambda: shape("GptOss"), "without scaled_dot_product_attention, through which masks"),
        (lambda: shape("Llama4Text"), "has layers of the kind chunked_attention, and prompts are"),
        (lambda: shape("Qwen3Next"), "has layers of the kind linear_attention, and prompts are"),
        (lambda: shape("Gemma3Text", use_bidirectional_attention=True), "tokens see those after"),
        (lambda: transformers.Gemma3Config(), "several parts .text_config, vision_config.,"),
    ],
)
def test_what_is_not_supported_is_refused_for_what_it_is(config, reason, tmp_path):
    """Before weights are read: there are none here."""
    config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        load_model(tmp_path, "float32", torch.device("cpu"))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_supported_is_not_refused(name):
    kind, more = FAMILIES[name]
    assert unsupported(shape(kind, **more)) == ""


def test_a_quantized_checkpoint_is_refused_before_its_weights_are_read(tmp_path):
    shape("Llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    quantized = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantized))
    with pytest.raises(ValueError, match="is quantized .gptq, by 'quantization_config' in config"):
        load_model(tmp_path, "float32", torch.device("cpu"))
