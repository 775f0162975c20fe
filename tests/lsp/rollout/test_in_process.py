"""The rollout engine against HF ``generate`` and against exact probabilities."""

import copy
from types import SimpleNamespace

import pytest
import torch

from lsp.model.language_model import load_model
from lsp.model.onednn import OneDnnLinear, available, use_onednn
from lsp.rollout.in_process import InProcessEngine
from lsp.types import DrawKey

KEY = DrawKey(0, 1, "solver")


@pytest.fixture(scope="module")
def llama(llama_folder):
    return load_model(llama_folder, "float32", torch.device("cpu"))


def prompts_of(lengths, vocabulary=280):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def hf_greedy(model, prompt, limit, stop):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit,
        eos_token_id=stop, pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 0, 5, 3, 1, 4)])
@pytest.mark.parametrize("max_rows", [1, 2, 64])
def test_greedy_equals_hf_generate_over_ragged_prompts(llama, max_rows, order):
    model, tokenizer = llama
    ragged = prompts_of([3, 17, 1, 8, 8, 30])
    prompts = [ragged[i] for i in order]
    engine = InProcessEngine(tokenizer, {1, 7, 9}, max_rows)
    found = engine.generate(model, prompts, 1, 12, 0.0, KEY)
    for prompt, (completion,) in zip(prompts, found, strict=True):
        assert list(completion.ids) == hf_greedy(model, prompt, 12, [1, 7, 9])


def test_an_end_token_first_gives_a_completion_of_one_token(llama):
    model, tokenizer = llama
    (prompt,) = prompts_of([9])
    first = hf_greedy(model, prompt, 1, [1])[0]
    engine = InProcessEngine(tokenizer, {first}, 8)
    ((completion,),) = engine.generate(model, [prompt], 1, 5, 0.0, KEY)
    assert completion.ids == (first,)
    assert (completion.text, completion.finish_reason) == ("", "stop")


def test_a_row_cut_at_the_limit_says_so(llama):
    model, tokenizer = llama
    engine = InProcessEngine(tokenizer, {1}, 8)
    for (completion,) in engine.generate(model, prompts_of([4, 6]), 1, 2, 0.0, KEY):
        assert completion.finish_reason == "length" and len(completion.ids) == 2


@pytest.mark.parametrize("max_rows", [3, 7, 100])
def test_draws_do_not_depend_on_neighbours_or_chunks(players, max_rows):
    engine = InProcessEngine(players.chat.tokenizer, players.engine.stop_ids.tolist(), max_rows)
    prompts = players.chat.encode([[("user", "sort cab")], [("user", "copy abcabcab")]])
    found = engine.generate(players.policy, prompts, 8, 12, 1.0, KEY)
    expected = players.engine.generate(players.policy, prompts, 8, 12, 1.0, KEY)
    assert [[c.ids for c in group] for group in found] == [
        [c.ids for c in group] for group in expected
    ]


def test_a_stop_string_ends_at_the_token_that_completes_it(players):
    """Greedy text cut where the string first appears; ids right to that token."""
    chat, policy = players.chat, players.policy
    prompts = chat.encode([[("user", "copy abcabc")], [("user", "copy bbbb")]])
    engine = InProcessEngine(chat.tokenizer, players.engine.stop_ids.tolist(), 8, ["ca", "zz"])
    (cut,), (whole,) = engine.generate(policy, prompts, 1, 12, 0.0, KEY)
    (plain,), (same,) = players.engine.generate(policy, prompts, 1, 12, 0.0, KEY)
    assert plain.text == "abcabc" and cut.text == "ab" and cut.finish_reason == "stop"
    assert cut.ids == plain.ids[: len(cut.ids)] and chat.tokenizer.decode(cut.ids) == "abca"
    assert (whole.ids, whole.text) == (same.ids, same.text)


@pytest.mark.parametrize("stop", ["终止符号", "привет, ми", "🛑🛑🛑"])
def test_stop_strings_of_many_bytes_are_found(stop):
    """A byte-level tokenizer writes such a character in two to four tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    engine = InProcessEngine(tokenizer, {0}, 8, [stop])
    written = tokenizer.encode(f"xx{stop}yy")
    token_BT = torch.tensor([written, tokenizer.encode("x" * len(written))])
    last = len(tokenizer.encode(f"xx{stop}")) - 1
    alive = torch.arange(2)
    assert engine._ends_in_stop_string(token_BT, alive, last).tolist() == [True, False]
    assert engine._ends_in_stop_string(token_BT, alive, last - 1).tolist() == [False, False]


def test_the_first_stop_string_in_the_text_counts(players):
    tokenizer = players.chat.tokenizer
    ids = torch.tensor([tokenizer.encode("cabb", add_special_tokens=False)])
    for stops in (["bb", "ab"], ["ab", "bb"]):
        engine = InProcessEngine(tokenizer, {1}, 8, stops)
        (found,) = engine._collect(ids, torch.zeros(1, 4), torch.tensor([4]), torch.tensor([True]))
        assert found.text == "c"


def test_prompts_are_prefilled_under_a_token_limit(llama, monkeypatch):
    """Ragged prompts in parts of two: what is written is what one part of all writes."""
    model, tokenizer = llama
    prompts = prompts_of([3, 1, 4, 2, 3])
    engine = InProcessEngine(tokenizer, {1}, 64)
    together = engine.generate(model, prompts, 3, 6, 1.0, KEY)
    monkeypatch.setattr("lsp.rollout.in_process.PREFILL_TOKENS", 8)
    seen = []
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: seen.append(tuple(out.last_hidden_state.shape[:2])),
        with_kwargs=True,
    )
    apart = engine.generate(model, prompts, 3, 6, 1.0, KEY)
    hook.remove()
    assert [shape for shape in seen if shape[1] > 1] == [(2, 4), (2, 4), (1, 4)]
    assert [[c.ids for c in row] for row in apart] == [[c.ids for c in row] for row in together]


def test_chunks_keep_to_the_memory_limit(llama):
    model, tokenizer = llama
    rows = []
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: rows.append(out.last_hidden_state.shape[0]),
        with_kwargs=True,
    )
    engine = InProcessEngine(tokenizer, {1}, 64, max_tokens=40)
    found = engine.generate(model, prompts_of([6, 3]), 4, 4, 1.0, KEY)
    hook.remove()
    assert max(rows) == 4  # 40 columns of 10 a row
    whole = InProcessEngine(tokenizer, {1}, 64).generate(model, prompts_of([6, 3]), 4, 4, 1.0, KEY)
    assert [[c.ids for c in g] for g in found] == [[c.ids for c in g] for g in whole]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_one_message(llama, value):
    model, tokenizer = llama
    head = copy.deepcopy(model)
    with torch.no_grad():
        head.get_output_embeddings().weight.fill_(value)
    with pytest.raises(ValueError, match="logits are not finite"):
        InProcessEngine(tokenizer, {1}, 8).generate(head, prompts_of([3]), 2, 4, 1.0, KEY)


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN product here")
def test_packed_weights_decode_what_hf_generates():
    """A model whose layers are large enough for oneDNN."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=128, intermediate_size=160, num_hidden_layers=2,
                    num_attention_heads=4, initializer_range=0.2, eos_token_id=1)
    ).eval()  # fmt: skip
    expected = [hf_greedy(model, prompt, 12, [1]) for prompt in prompts_of([3, 17, 8])]
    use_onednn(model)
    assert isinstance(model.model.layers[0].self_attn.q_proj, OneDnnLinear)
    seen = []
    layer = model.model.layers[0].mlp.up_proj
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(module.packed))
    engine = InProcessEngine(
        SimpleNamespace(batch_decode=lambda rows, **_: [""] * len(rows)), {1}, 8
    )
    found = engine.generate(model, prompts_of([3, 17, 8]), 1, 12, 0.0, KEY)
    hook.remove()
    assert [list(c.ids) for (c,) in found] == expected
    assert seen and all(packed is not None for packed in seen) and layer.packed is None


def test_all_rows_may_end_at_once(llama):
    model, tokenizer = llama
    engine = InProcessEngine(tokenizer, range(model.config.vocab_size), 8)
    found = engine.generate(model, prompts_of([3, 5]), 2, 9, 1.0, KEY)
    assert all(len(c.ids) == 1 and c.text == "" for group in found for c in group)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop_strings": [""]}, "the stop string '' can never occur"),
        ({"stop_strings": ["ab\x07\u4e00"]}, "can never occur: the tokenizer cannot write it"),
        ({"max_tokens": 0}, "max_tokens=0: both are 1 or more"),
        ({"top_p": 0.0}, "top_p=0.0: it is a share of probability"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_engines_that_cannot_be(players, settings, says):
    with pytest.raises(ValueError, match=says):
        InProcessEngine(players.chat.tokenizer, {1}, 8, **settings)


@pytest.mark.parametrize(
    ("prompts", "samples", "limit", "temperature", "says"),
    [
        ([[5]], 1, 4, -0.5, "temperature=-0.5: it is 0"),
        ([[5]], 1, 4, float("nan"), "temperature=nan"),
        ([[5]], 1, 0, 1.0, "at most 0 tokens: there must be one or more"),
        ([[5], []], 1, 4, 1.0, "after a prompt of one token or more"),
        ([[5]], 0, 4, 1.0, "0 samples"),
    ],
)
def test_what_cannot_be_generated(llama, prompts, samples, limit, temperature, says):
    model, tokenizer = llama
    with pytest.raises(ValueError, match=says):
        InProcessEngine(tokenizer, {1}, 8).generate(
            model, prompts, samples, limit, temperature, KEY
        )


def test_no_prompts_no_completions(llama):
    model, tokenizer = llama
    assert InProcessEngine(tokenizer, {1}, 8).generate(model, [], 2, 4, 1.0, KEY) == []


def test_decoded_tokens_are_those_kept_but_for_compaction(llama):
    """Finished rows leave the batch: rows decoded against tokens kept."""
    model, tokenizer = llama
    decoded = []
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: decoded.append(out.last_hidden_state.shape[:2]),
        with_kwargs=True,
    )
    engine = InProcessEngine(tokenizer, range(0, model.config.vocab_size, 8), 64)
    found = engine.generate(model, prompts_of([6, 6]), 16, 40, 1.0, KEY)
    hook.remove()
    assert decoded[0][0] == 2  # each prompt once, not 16 times
    steps = sum(rows for rows, width in decoded[1:] if width == 1)
    kept = sum(len(c.ids) - 1 for group in found for c in group)  # the last one decodes nothing
    assert kept <= steps <= 1.3 * kept


def test_a_prompt_beyond_the_context_is_refused(llama):
    model, tokenizer = llama
    engine = InProcessEngine(tokenizer, {1}, 8)
    with pytest.raises(ValueError, match="a prompt of 510 tokens and 3 new ones exceed"):
        engine.generate(model, prompts_of([510]), 1, 3, 1.0, KEY)


def test_special_tokens_in_the_middle_stay_visible_as_text(players):
    tokenizer = players.chat.tokenizer
    (inside,) = tokenizer.encode("<|user|>", add_special_tokens=False)
    a = tokenizer.convert_tokens_to_ids("a")
    engine = players.engine
    (completion,) = engine._collect(
        torch.tensor([[a, inside, a, 1]]),
        torch.zeros(1, 4),
        torch.tensor([4]),
        torch.tensor([True]),
    )
    assert completion.text == "a<|user|>a"
