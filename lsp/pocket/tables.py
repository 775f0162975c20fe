"""A model goes in, what it does on all 78,720 legal queries comes out: no sampling, no interval.

The pocket tokenizer has one token a character, so a query has one tokenization and a probability
that teacher forcing gives. Queries share their beginnings, and so do the passes here: a tree of
arguments is walked, each node's keys and values are computed once, and the answers to the query
that ends at a node are read off it. Logits are the model's, in its own dtype; what is made of them
is float64, so that 1 - p keeps its digits where p is nearly 1.

A played query is stripped of outer blanks (``parse_query``); the tables take one with a blank for
an illegal one. The shipped base writes 1e-4 of them.

Order of queries, here and in every array ``_Q``: ``legal_queries()``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lsp.model.chat import ChatFormat
from lsp.model.onednn import passes_of_rows
from lsp.model.windows import windowed
from lsp.pocket.language import ALPHABET, FAMILIES, MAX_LENGTH, Task
from lsp.rollout.row_cache import RowCache
from lsp.settings.prompts import Prompts

BRANCHES = len(ALPHABET)
ROWS = 729
"""Nodes of the tree that are computed at once."""
NEGLIGIBLE = 0.01
"""An answer is not looked at where all others hold no more than this."""
SHOWN = ("aabbccac", "cbacbaba")
"""Arguments with which prompts are read: any two letters stand beside each other, so a tokenizer
that makes one token of some is seen."""


@dataclass(frozen=True)
class Script:
    """The words around a text, as token ids: a query is asked for after ``ask``; the Solver reads
    ``before`` + query + ``between`` and writes its answer; the judge goes on from there with
    ``rate`` (None: it reads something else, and qualities are not known)."""

    ask: list[int]
    before: list[int]
    between: list[int]
    rate: list[int] | None
    end: int
    characters: dict[str, int]

    def ids(self, text: str) -> list[int]:
        return [self.characters[character] for character in text]


def read_script(chat: ChatFormat, prompts: Prompts) -> Script:
    """Raises ValueError where a query does not stand in the prompts character by character."""
    tasks = [Task(family, argument) for family in FAMILIES for argument in SHOWN]
    texts = sorted({c for task in tasks for c in task.query + task.right_answer} | set("01234567"))
    encoded = chat.encode_text(texts)
    (ask,) = chat.encode([prompts.challenger_messages()])
    queries = [task.query for task in tasks]
    solver = chat.encode([prompts.solver_messages(query) for query in queries])
    after = [[*prompts.judge_messages(t.query, t.right_answer)] for t in tasks]
    judge = chat.encode([[*messages, ("opening", prompts.judge_opening)] for messages in after])
    if len({tuple(ids) for ids in encoded if len(ids) == 1}) < len(texts):  # unknown ones are one
        raise ValueError(
            "eval.exact needs a tokenizer with one token a character; choose eval.exact=false"
        )
    characters = {text: ids[0] for text, ids in zip(texts, encoded, strict=True)}
    end = chat.tokenizer.eos_token_id
    script = Script(ask, [], [], None, end, characters)
    begin, first = solver[0], script.ids(queries[0])
    places = [i for i in range(len(begin)) if begin[i : i + len(first)] == first]
    if places:
        before, between = begin[: places[0]], begin[places[0] + len(first) :]
        script = Script(ask, before, between, None, end, characters)
    if any(s != [*script.before, *script.ids(q), *script.between]
           for s, q in zip(solver, queries, strict=True)):  # fmt: skip
        raise ValueError(
            "eval.exact needs prompts.solver to be the query alone, each character one token;"
            " choose eval.exact=false"
        )
    heads = [s + script.ids(t.right_answer) for s, t in zip(solver, tasks, strict=True)]
    rates = [j[len(h) :] if j[: len(h)] == h else None for j, h in zip(judge, heads, strict=True)]
    rate = rates[0] if all(one == rates[0] for one in rates) else None
    return Script(ask, script.before, script.between, rate, end, characters)


@dataclass(frozen=True)
class AskedTable:
    """What a model writes as Challenger. ``words``: for each beginning of a family's name, the
    log-probability of each character that goes on to a legal query. ``letters``: for each family,
    by length 0 to 8 of the argument so far, log-probabilities [3^length, 4] of a, b, c and the
    end; those that leave the language are -inf."""

    words: dict[str, dict[str, float]]
    letters: dict[str, list[Tensor]]

    def log_probability_Q(self) -> Tensor:
        """log pi_Ch of every legal query, float64."""
        parts = []
        for family, levels in self.letters.items():
            word = f"{family} "
            reached = torch.tensor([sum(self.words[word[:i]][word[i]] for i in range(len(word)))])
            reached = reached.double()
            for level in levels:
                if len(level) > 1:
                    parts.append(reached + level[:, -1])
                reached = (reached[:, None] + level[:, :BRANCHES]).flatten()
        return torch.cat(parts)


@dataclass(frozen=True)
class AnsweredTable:
    """What a model answers, [Q] float64: log-probabilities of the right answer and of the *echo*,
    the argument as it stands (-inf where that is the right one, or where it was not looked at,
    since all wrong answers together hold less than NEGLIGIBLE). ``quality_…``: the judge's
    expected score of the two, where this model judges (NaN where there is no such answer)."""

    right_Q: Tensor
    echo_Q: Tensor
    quality_right_Q: Tensor | None = None
    quality_echo_Q: Tensor | None = None


def asked_table(
    model: PreTrainedModel, script: Script, temperature: float = 1.0, max_length: int = MAX_LENGTH
) -> AskedTable:
    words: dict[str, dict[str, float]] = {}
    for text in (f"{family} " for family in FAMILIES):
        for i, character in enumerate(text):
            words.setdefault(text[:i], {})[character] = 0.0
    beginnings = sorted(words, key=len)
    for start in beginnings:
        logprobs = _after(model, script.ask + script.ids(start), temperature)
        for character in words[start]:
            words[start][character] = logprobs[script.characters[character]].item()
    going_on = [*(script.characters[letter] for letter in ALPHABET), script.end]

    def of_family(family: str) -> list[Tensor]:
        levels = [torch.zeros(BRANCHES**n, BRANCHES + 1).double() for n in range(max_length + 1)]

        def visit(length: int, first: int, logprobs: Tensor, cache: RowCache) -> None:
            chosen = logprobs[:, going_on]
            if length == 0:
                chosen[:, -1] = -torch.inf
            if length == max_length:
                chosen[:, :BRANCHES] = -torch.inf
            levels[length][first : first + len(chosen)] = chosen

        walk(model, script.ask, family, script, max_length, visit, temperature)
        return levels

    with torch.no_grad(), plain_attention(model):
        letters = dict(zip(FAMILIES, in_threads(of_family, list(FAMILIES)), strict=True))
    return AskedTable(words, letters)


def answered_table(
    model: PreTrainedModel,
    script: Script,
    temperature: float = 1.0,
    judges: bool = False,
    max_length: int = MAX_LENGTH,
) -> AnsweredTable:
    """``judges``: also what the model, as judge, thinks of the answers."""
    digits = [script.characters[str(digit)] for digit in range(8)] if judges else []

    def of_family(family: str) -> list[list[Tensor]]:
        columns: list[list[Tensor]] = [[], [], [], []]
        levels = [torch.full((4, BRANCHES**n), torch.nan).double() for n in range(max_length + 1)]
        for n in range(1, max_length + 1):
            levels[n][:2] = -torch.inf

        def visit(length: int, first: int, logprobs: Tensor, cache: RowCache) -> None:
            if length == 0:
                return
            tasks = [Task(family, argument_of(first + i, length)) for i in range(len(logprobs))]
            found = levels[length][:, first : first + len(tasks)]
            answers = [task.right_answer for task in tasks]
            found[0], found[2] = answer(cache, answers)
            echoes = [task.argument for task in tasks]
            if echoes != answers and (judges or found[0].exp().min() < 1 - NEGLIGIBLE):
                different = torch.tensor([e != a for e, a in zip(echoes, answers, strict=True)])
                echo, quality = answer(cache, echoes)
                found[1] = torch.where(different, echo, -torch.inf)
                found[3] = torch.where(different, quality, torch.nan)

        def answer(cache: RowCache, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
            """log-probabilities and qualities of one answer each, all of one length."""
            rate = script.rate if judges else None
            said = torch.tensor([script.ids(text) for text in texts])
            parts = [
                torch.tensor([ids]).expand(len(said), -1) for ids in (script.between, rate or ())
            ]
            ids = torch.cat([parts[0], said, parts[1].long()], dim=1)
            hidden = _forward(model, ids, cache)
            head = model.get_output_embeddings()
            begin = len(script.between) - 1
            targets = torch.cat([said, torch.full((len(said), 1), script.end)], dim=1)
            logits = head(hidden[:, begin : begin + targets.shape[1]])
            logprobs = _logprobs(logits, temperature).gather(2, targets[:, :, None])[:, :, 0]
            quality = torch.full((len(said),), torch.nan).double()
            if rate:
                judged = _logprobs(head(hidden[:, -1])).exp()[:, digits]
                quality = (judged @ torch.arange(8.0).double()) / judged.sum(1)
            return logprobs.sum(1), quality

        room = len(script.between) + MAX_LENGTH + len(script.rate or ())
        walk(model, script.before, family, script, max_length, visit, 1.0, room)
        for level in levels[1:]:
            for column, values in zip(columns, level, strict=True):
                column.append(values)
        return columns

    with torch.no_grad(), plain_attention(model), passes_of_rows(model, ROWS * MAX_LENGTH):
        families = in_threads(of_family, list(FAMILIES))
    right, echo, quality_right, quality_echo = (
        torch.cat([part for family in families for part in family[i]]) for i in range(4)
    )
    known = (quality_right, quality_echo) if judges and script.rate else (None, None)
    return AnsweredTable(right, echo, *known)


def walk(
    model: PreTrainedModel,
    head: Sequence[int],
    family: str,
    script: Script,
    max_length: int,
    visit: Callable[[int, int, Tensor, RowCache], None],
    temperature: float,
    room: int = 0,
) -> None:
    """Call ``visit(length, first, logprobs, cache)`` for every part of every level of a family's
    arguments: rows ``first``, first + 1, … of that length, the log-probabilities [rows, V] of what
    follows them, and their keys and values with ``room`` columns to spare, free to be written."""
    beginning = [*head, *script.ids(f"{family} ")]
    cache = RowCache(len(beginning) + max_length + room)
    letters = torch.tensor([script.characters[letter] for letter in ALPHABET])

    def down(length: int, first: int, ids: Tensor, cache: RowCache) -> None:
        hidden = _forward(model, ids, cache)[:, -1]
        cache.advance(ids.shape[1])
        logits = model.get_output_embeddings()(hidden)
        visit(length, first, _logprobs(logits, temperature), cache)
        if length == max_length:
            return
        for rows in torch.arange(len(ids)).split(ROWS // BRANCHES):
            ids_below = letters.repeat(len(rows))[:, None]
            cache_below = cache.taken(rows.repeat_interleave(BRANCHES))
            down(length + 1, (first + int(rows[0])) * BRANCHES, ids_below, cache_below)

    down(0, 0, torch.tensor([beginning]), cache)


def _forward(model: PreTrainedModel, ids: Tensor, cache: RowCache) -> Tensor:
    """Hidden states of more columns after those that count, [rows, columns, hidden]."""
    begin, width, decoder = cache.length, ids.shape[1], model.get_decoder()
    columns = torch.arange(begin + width, device=model.device)[None]
    sees = (columns <= columns[:, begin:].T)[None, None]
    masks = windowed(decoder.config, sees, columns[:, begin:], columns)
    kinds = masks if isinstance(masks, dict) else {"": masks}
    added = {kind: _added(mask, model.dtype) for kind, mask in kinds.items()}
    return decoder(
        input_ids=ids.to(model.device),
        attention_mask=added if isinstance(masks, dict) else added[""],
        position_ids=columns[:, begin:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to attention's scores."""
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, scores are matrix products: on a CPU, for heads this small and texts this short, in
    half the time of torch's fused attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def _after(model: PreTrainedModel, ids: Sequence[int], temperature: float) -> Tensor:
    """Log-probabilities of what follows some ids, [V]."""
    logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return _logprobs(logits[0, -1], temperature)


def _logprobs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Over the last axis, float64, on the CPU."""
    return (logits.cpu().double() / temperature).log_softmax(-1)


def argument_of(index: int, length: int) -> str:
    """The ``index``-th argument of a length, in the order of the alphabet."""
    letters = ""
    for _ in range(length):
        index, letter = divmod(index, BRANCHES)
        letters = ALPHABET[letter] + letters
    return letters


def in_threads(work: Callable, items: Sequence) -> list:
    """``[work(item) …]`` on as many cores as OMP_NUM_THREADS says, or as there are: torch's own
    threads do not help matrices this small. The same numbers for any count."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores = int(said) if said.isdecimal() and int(said) else os.cpu_count() or 1

    def alone(item):
        with torch.no_grad():
            return work(item)

    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(alone, items))
