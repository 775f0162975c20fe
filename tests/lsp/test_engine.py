"""The rollout engine against HF ``generate`` and against exact probabilities."""

import pytest
import torch

from lsp.config import ModelConfig
from lsp.models import load_model
from lsp.rollout.engine import DrawKey, RolloutEngine, sample

SETTINGS = ModelConfig("unused", None, "float32", None)
KEY = DrawKey(0, 1, "solver")


@pytest.fixture(scope="module")
def llama(llama_folder):
    return load_model(llama_folder, SETTINGS, torch.device("cpu"))


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


@pytest.mark.parametrize("max_rows", [1, 2, 64])
def test_greedy_equals_hf_generate_over_ragged_prompts(llama, max_rows):
    model, tokenizer = llama
    prompts = prompts_of([3, 17, 1, 8, 8, 30])
    engine = RolloutEngine(tokenizer, {1, 7, 9}, max_rows)
    found = engine.generate(model, prompts, 1, 12, 0.0, KEY)
    for prompt, (completion,) in zip(prompts, found, strict=True):
        assert list(completion.ids) == hf_greedy(model, prompt, 12, [1, 7, 9])


def test_an_end_token_first_gives_a_completion_of_one_token(llama):
    model, tokenizer = llama
    (prompt,) = prompts_of([9])
    first = hf_greedy(model, prompt, 1, [1])[0]
    engine = RolloutEngine(tokenizer, {first}, 8)
    ((completion,),) = engine.generate(model, [prompt], 1, 5, 0.0, KEY)
    assert completion.ids == (first,)
    assert (completion.text, completion.finish_reason) == ("", "stop")


def test_a_row_cut_at_the_limit_says_so(llama):
    model, tokenizer = llama
    engine = RolloutEngine(tokenizer, {1}, 8)
    for (completion,) in engine.generate(model, prompts_of([4, 6]), 1, 2, 0.0, KEY):
        assert completion.finish_reason == "length" and len(completion.ids) == 2


@pytest.mark.parametrize("max_rows", [3, 7, 100])
def test_draws_do_not_depend_on_neighbours_or_chunks(players, max_rows):
    engine = RolloutEngine(players.chat.tokenizer, players.engine.stop_ids.tolist(), max_rows)
    prompts = players.chat.encode([[("user", "sort cab")], [("user", "copy abcabcab")]])
    found = engine.generate(players.policy, prompts, 8, 12, 1.0, KEY)
    expected = players.engine.generate(players.policy, prompts, 8, 12, 1.0, KEY)
    assert [[c.ids for c in group] for group in found] == [
        [c.ids for c in group] for group in expected
    ]


def test_other_steps_roles_and_seeds_draw_otherwise():
    uniforms = {
        key: tuple(key.uniforms(0, 4))
        for key in (KEY, DrawKey(0, 2, "solver"), DrawKey(0, 1, "judge"), DrawKey(1, 1, "solver"))
    }
    assert len(set(uniforms.values())) == 4
    assert tuple(KEY.uniforms(0, 4)) != tuple(KEY.uniforms(1, 4))
    assert tuple(KEY.uniforms(0, 8)[:4]) == tuple(KEY.uniforms(0, 4))


def test_sampled_frequencies_match_the_probabilities():
    """Chi-square over 20,000 draws: 7 degrees of freedom, 99.9 % quantile 24.3."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 3.0, 0.2])
    count = 20_000
    uniform = torch.from_numpy(DrawKey(3, 1, "x").uniforms(0, count))
    token, logprob = sample(logits.expand(count, -1), 0.7, uniform)
    probability = (logits / 0.7).softmax(0)
    expected = probability * count
    observed = torch.bincount(token, minlength=8)
    assert ((observed - expected) ** 2 / expected).sum() < 24.3
    assert torch.allclose(logprob, probability.log()[token], atol=1e-6)


def test_the_ends_of_the_unit_interval_give_tokens_with_probability():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    low, _ = sample(logits, 1.0, torch.tensor([0.0], dtype=torch.float64))
    high, _ = sample(logits, 1.0, torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert (low.item(), high.item()) == (1, 3)


def test_a_prompt_beyond_the_context_is_refused(llama):
    model, tokenizer = llama
    engine = RolloutEngine(tokenizer, {1}, 8)
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
