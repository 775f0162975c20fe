"""The tables of what a model does on all legal queries: against brute force, on short arguments."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from lsp.model.chat import ChatFormat
from lsp.model.probability import completion_probability
from lsp.pocket.exact import COLUMNS, SHIPPED
from lsp.pocket.language import ALPHABET, FAMILIES, legal_queries
from lsp.pocket.tables import (
    answered_table,
    argument_of,
    asked_table,
    in_threads,
    read_script,
)
from lsp.types import DrawKey

SHORT = 2
TASKS = [task for task in legal_queries() if len(task.argument) <= SHORT]
EVERY = list(legal_queries())


@pytest.fixture(scope="module")
def script(players):
    return read_script(players.chat, players.prompts)


@pytest.fixture(scope="module")
def asked(players, script):
    """All 78,720 queries; a second."""
    return asked_table(players.reference, script)


@pytest.fixture(scope="module")
def judged(players, script):
    return answered_table(players.reference, script, judges=True, max_length=SHORT)


@pytest.fixture(scope="module")
def shipped():
    from safetensors.torch import load_file

    return load_file(SHIPPED)


@torch.no_grad()
def plain(model, prompt, ids, temperature=1.0):
    """Log-probability of ids after a prompt, by the model's own forward pass."""
    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
    return (logits / temperature).log_softmax(-1)[torch.arange(len(ids)), ids].sum().item()


def by_forcing(players, prompts, texts):
    model, chat = players.reference, players.chat
    return torch.tensor(completion_probability(model, chat, prompts, texts, 8192)).double()


def solver_prompts(players, tasks):
    return players.chat.encode([players.prompts.solver_messages(task.query) for task in tasks])


def test_arguments_are_counted_in_the_order_of_the_legal_queries():
    for length in (1, 2, 3):
        expected = ["".join(x) for x in itertools.product(ALPHABET, repeat=length)]
        assert [argument_of(i, length) for i in range(len(expected))] == expected


def test_each_short_query_has_the_probability_of_teacher_forcing(players, script):
    found = asked_table(players.reference, script, max_length=SHORT).log_probability_Q().exp()
    texts = [task.query for task in TASKS]
    expected = by_forcing(players, [script.ask] * len(texts), texts)
    assert len(found) == 8 * (3 + 9) and found.sum() > 0.4
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_some_queries_of_every_length_have_it_too(players, script, asked):
    rows = random.Random(0).sample(range(len(EVERY)), 120)
    texts = [EVERY[row].query for row in rows]
    expected = by_forcing(players, [script.ask] * len(texts), texts)
    found = asked.log_probability_Q()[rows].exp()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert len(asked.log_probability_Q()) == 78_720


def test_a_temperature_divides_the_logits(players, script):
    hot, model = 1.7, players.reference
    found = asked_table(model, script, hot, max_length=1).log_probability_Q()
    answers = answered_table(model, script, hot, judges=True, max_length=1)
    tasks = [task for task in TASKS if len(task.argument) == 1]
    for row, task in enumerate(tasks):
        expected = plain(model, script.ask, [*script.ids(task.query), script.end], hot)
        assert found[row].item() == pytest.approx(expected, abs=1e-4)
        prompt = [*script.before, *script.ids(task.query), *script.between]
        expected = plain(model, prompt, [*script.ids(task.right_answer), script.end], hot)
        assert answers.right_Q[row].item() == pytest.approx(expected, abs=1e-4)
    cold = answered_table(model, script, judges=True, max_length=1)
    assert torch.equal(cold.quality_right_Q, answers.quality_right_Q)  # the judge is asked at 1


def test_legal_queries_and_all_that_leaves_the_language_are_everything(players, script):
    """Every node of the tree by a plain pass: what goes on legally there, and all other tokens."""
    words = {f"{family} "[:i] for family in FAMILIES for i in range(len(family) + 1)}
    arguments = ["", *map("".join, itertools.product("abc", repeat=1))]
    arguments += map("".join, itertools.product("abc", repeat=2))
    nodes = {word: {f"{family} "[len(word)] for family in FAMILIES if family.startswith(word)}
             for word in words}  # fmt: skip
    for family, argument in itertools.product(FAMILIES, arguments):
        nodes[f"{family} {argument}"] = set("abc") if len(argument) < SHORT else set()
    reached, leaving, ending = {"": 1.0}, 0.0, 0.0
    for node in sorted(nodes, key=len):
        ids = torch.tensor([[*script.ask, *script.ids(node)]])
        with torch.no_grad():
            probability = players.reference(ids).logits[0, -1].double().softmax(-1)
        for character in nodes[node]:
            reached[node + character] = reached[node] * probability[script.ids(character)].item()
        ends = " " in node and not node.endswith(" ")
        ended = probability[script.end].item() if ends else 0.0
        going_on = probability[[i for c in nodes[node] for i in script.ids(c)]].sum().item()
        ending += reached[node] * ended
        leaving += reached[node] * (1 - ended - going_on)
    table = asked_table(players.reference, script, max_length=SHORT)
    legal = table.log_probability_Q().exp().sum().item()
    assert legal == pytest.approx(ending, abs=1e-6)
    assert 1 - legal == pytest.approx(leaving, abs=1e-6)


def test_each_right_answer_and_each_echo_has_the_probability_of_teacher_forcing(players, judged):
    prompts = solver_prompts(players, TASKS)
    right = by_forcing(players, prompts, [task.right_answer for task in TASKS])
    echo = by_forcing(players, prompts, [task.argument for task in TASKS])
    same = torch.tensor([task.right_answer == task.argument for task in TASKS])
    assert torch.allclose(judged.right_Q.exp(), right, atol=1e-6)
    assert torch.equal(judged.echo_Q == -torch.inf, same)
    assert torch.allclose(judged.echo_Q.exp()[~same], echo[~same], atol=1e-6)
    assert (judged.right_Q.exp() + judged.echo_Q.exp()).max() <= 1


def test_an_echo_that_is_not_looked_at_is_negligible(players, script, judged, monkeypatch):
    monkeypatch.setattr("lsp.pocket.tables.NEGLIGIBLE", 0.2)  # no short query is below 1 %
    found = answered_table(players.reference, script, max_length=SHORT)
    assert torch.allclose(found.right_Q, judged.right_Q) and found.quality_right_Q is None
    skipped = (found.echo_Q == -torch.inf) & (judged.echo_Q > -torch.inf)
    assert skipped.any() and (found.echo_Q > -torch.inf).any()
    assert (1 - found.right_Q[skipped].exp()).max() <= 0.2
    assert torch.allclose(found.echo_Q[~skipped], judged.echo_Q[~skipped])


def test_qualities_are_the_judges_expected_scores(players, judged):
    queries = [task.query for task in TASKS]
    key = DrawKey(0, 0, "judge")
    every = torch.ones(len(TASKS), dtype=torch.bool)
    different = torch.tensor([task.right_answer != task.argument for task in TASKS])
    for column, asked_for, answers in (
        (judged.quality_right_Q, every, [task.right_answer for task in TASKS]),
        (judged.quality_echo_Q, different, [task.argument for task in TASKS]),
    ):
        expected = torch.tensor(players.self_judge.score(queries, answers, key)[0]).double()
        known = ~column.isnan()
        assert torch.equal(known, asked_for) and not expected.isnan().any()
        assert torch.allclose(column[known], expected[known], atol=1e-4)


def test_the_shipped_table_is_the_bases_on_queries_of_every_length(players, shipped):
    rows = random.Random(1).sample(range(len(EVERY)), 120)
    tasks = [EVERY[row] for row in rows]
    prompts = solver_prompts(players, tasks)
    right = by_forcing(players, prompts, [task.right_answer for task in tasks])
    echo = by_forcing(players, prompts, [task.argument for task in tasks])
    assert set(shipped) == set(COLUMNS)
    assert torch.allclose(shipped["right_Q"][rows].double().exp(), right, atol=1e-5)
    different = torch.tensor([task.right_answer != task.argument for task in tasks])
    found = shipped["echo_Q"][rows].double().exp()
    assert torch.allclose(found, torch.where(different, echo, 0.0), atol=1e-5)


def test_threads_change_no_number(players, script, monkeypatch):
    model, tables, asked = players.reference, {}, {}
    for threads in ("1", "2", "2,1", "", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert in_threads(lambda item: item + 1, [1, 2, 3]) == [2, 3, 4]
        if threads in ("1", "2"):
            tables[threads] = answered_table(model, script, judges=True, max_length=SHORT)
            asked[threads] = asked_table(model, script, max_length=SHORT).log_probability_Q()
    assert torch.equal(asked["1"], asked["2"])
    for column in COLUMNS:
        one, two = (getattr(tables[threads], column) for threads in ("1", "2"))
        assert torch.equal(one.nan_to_num(), two.nan_to_num())


SMALL = {"vocab_size": 86, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
OTHERS = {
    "grouped queries": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "a sliding window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)),
    "bfloat16": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)).bfloat16(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_another_kind_are_read_as_they_compute(players, script, kind):
    torch.manual_seed(3)
    model = OTHERS[kind]().eval()
    table = asked_table(model, script, max_length=1).log_probability_Q()
    answers = answered_table(model, script, judges=True, max_length=1)
    close = {"abs": 0.3} if kind == "bfloat16" else {"abs": 1e-3}
    for row, task in enumerate(task for task in TASKS if len(task.argument) == 1):
        asking = plain(model, script.ask, [*script.ids(task.query), script.end])
        prompt = [*script.before, *script.ids(task.query), *script.between]
        answering = plain(model, prompt, [*script.ids(task.right_answer), script.end])
        assert table[row].item() == pytest.approx(asking, **close)
        assert answers.right_Q[row].item() == pytest.approx(answering, **close)


def test_a_system_message_before_the_query_is_read_with_it(players, script):
    prompts = replace(players.prompts, solver="be brief")
    other = read_script(players.chat, prompts)
    assert other.before != script.before and other.between == script.between
    (encoded,) = players.chat.encode([prompts.solver_messages("sort cab")])
    assert encoded == [*other.before, *other.ids("sort cab"), *other.between]


def test_a_judge_that_is_shown_more_before_the_pair_is_not_known(players):
    script = read_script(players.chat, replace(players.prompts, judge_rubric="seven points"))
    assert script.rate is None
    table = answered_table(players.reference, script, judges=True, max_length=1)
    assert table.quality_right_Q is None and table.quality_echo_Q is None
    assert (table.echo_Q > -torch.inf).sum() == 8 * 3 - sum(
        task.right_answer == task.argument for task in TASKS if len(task.argument) == 1
    )


def test_a_tokenizer_with_longer_tokens_is_refused(players, llama3_tokenizer):
    with pytest.raises(ValueError, match=r"eval\.exact needs prompts\.solver to be the query"):
        read_script(ChatFormat(llama3_tokenizer), players.prompts)


@pytest.mark.parametrize("pair", ["aa", "cb"])
def test_two_letters_in_one_token_are_seen(players, pair, monkeypatch):
    chat, encode = players.chat, players.chat.encode
    two, one = tuple(chat.encode_text([pair])[0]), 999

    def merged(conversations):
        found = []
        for ids in encode(conversations):
            row = []
            for token in ids:
                row = [*row[:-1], one] if row and (row[-1], token) == two else [*row, token]
            found.append(row)
        return found

    monkeypatch.setattr(chat, "encode", merged)
    with pytest.raises(ValueError, match=r"each character one token; choose eval\.exact=false"):
        read_script(chat, players.prompts)


@pytest.mark.parametrize("ids", [[1, 2], [5]])
def test_characters_of_two_tokens_or_all_of_one_are_refused(players, monkeypatch, ids):
    monkeypatch.setattr(players.chat, "encode_text", lambda texts: [ids for _ in texts])
    with pytest.raises(ValueError, match=r"one token a character; choose eval\.exact=false"):
        read_script(players.chat, players.prompts)


def test_a_prompt_that_holds_a_query_itself_is_refused(players):
    with pytest.raises(ValueError, match=r"prompts\.solver to be the query alone"):
        read_script(players.chat, replace(players.prompts, solver="such as copy aabbccac"))
