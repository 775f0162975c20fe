"""Is the game on? A step's queries and play go in, findings in plain words come out.

Trends need many steps before they raise an alarm (lsp/loop/collapse.py); what is said here shows in
the first one. ``python -m lsp.preflight`` says it before a run, step 1 of every run again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lsp.game import auto_weight
from lsp.settings.config import Config
from lsp.types import Play, Query

FEW_SHOT = "prompts=few_shot, or prompts of your own (docs/prompts.md)"
TELL_APART = "a reward that tells answers apart, a larger group_size, or easier queries"
LEAKED_WORDS = 4
"""Words in a row of a query that its prompt has too, if half of them are the prompt's."""


@dataclass(frozen=True)
class Finding:
    """``text``: what is the case; ``mend``: the setting that changes it. ``stops``: with it the
    game that the settings name is not played."""

    text: str
    mend: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.mend}"


def step_findings(
    config: Config, queries: Sequence[Query], prompts: Sequence[str], play: Play
) -> list[Finding]:
    """Of one step. ``prompts``: the text that each query was written after; empty for a data
    set's."""
    findings = list(_of_queries(config, queries, prompts)) if any(prompts) else []
    if play.queries:
        findings += [*_of_rewards(config, play), *_of_quality(config, play)]
    return findings


def _of_queries(
    config: Config, queries: Sequence[Query], prompts: Sequence[str]
) -> Iterator[Finding]:
    count, statuses = len(queries), Counter(query.status for query in queries)
    limit, trained = config.rollout.max_query_tokens, config.method.trains_challenger
    ways = {
        "length": (f"cut at {limit} tokens", f"{FEW_SHOT}, or a higher rollout.max_query_tokens"),
        "empty": ("empty", FEW_SHOT),
        "malformed": (
            "not what prompts.challenger_template or template_tags allow",
            "change these, or the Challenger's prompt",
        ),
        "illegal": ("none that this world has answers to", FEW_SHOT),
    }
    lost = count - statuses["stop"]
    for status, (words, mend) in ways.items():
        if statuses[status] > 0.2 * count:
            text = f"{statuses[status]} of {count} queries were {words}"
            yield Finding(text, mend, stops=lost > count / 2)
    method = config.method
    compared = method.invalid_query == "penalty" or method.challenger_baseline == "moving"
    alone = 1 if compared else 2
    if statuses["stop"] < alone and trained:
        text = f"{statuses['stop']} of {count} queries can be played: the Challenger learns nothing"
        yield Finding(text, FEW_SHOT, stops=True)
    illegal = sum(query.played and not config.world.is_legal(query.text) for query in queries)
    if illegal > 0.3 * count:
        text = f"{illegal} of {count} queries are none that this world has answers to"
        yield Finding(text, FEW_SHOT, stops=illegal + lost > count / 2)
    # What it wrote: a seed that its query takes over stands in its prompt.
    written = (query.completion.text if query.completion else "" for query in queries)
    leaked = sum(map(repeats_prompt, written, prompts))
    if leaked > 0.3 * count:
        text = f"{leaked} of {count} queries repeat the words of their prompt"
        yield Finding(text, FEW_SHOT, stops=leaked > 0.8 * count)
    distinct = len({query.text for query in queries})
    if distinct < min(0.5 * count, len(queries) / 2):
        text = f"{distinct} of {count} queries are distinct"
        way = "a seed for each (prompts.challenger_seeds), drawn examples, or a higher"
        yield Finding(text, f"{way} rollout.query_temperature", stops=distinct == 1)


def _of_rewards(config: Config, play: Play) -> Iterator[Finding]:
    groups, size = play.reward_QG.shape
    flat = int((play.reward_QG.amax(1) - play.reward_QG.amin(1) < 1e-6).sum())
    if flat > 0.8 * groups and groups > 1:
        text = (
            f"in {flat} of {groups} groups all {size} answers have the same R, which teach nothing"
        )
        alike = bool(play.reward_QG.amax() - play.reward_QG.amin() < 1e-6)
        yield Finding(text, TELL_APART, stops=alike)
    answers = [answer for group in play.answers for answer in group]
    cut = sum(answer.finish_reason == "length" for answer in answers)
    if cut > 0.5 * len(answers):
        limit = config.rollout.max_new_tokens
        text = f"{cut} of {len(answers)} answers were cut at {limit} tokens"
        yield Finding(
            text, "a higher rollout.max_new_tokens, or a prompts.solver that asks for less"
        )
    empty = sum(not answer.text.strip() for answer in answers)
    if empty > 0.5 * len(answers):
        yield Finding(
            f"{empty} of {len(answers)} answers are empty", "see model and prompts.solver"
        )


def _of_quality(config: Config, play: Play) -> Iterator[Finding]:
    if not play.quality_text:
        return
    weighs, count = config.method.rewards_quality, play.quality_QG.numel()
    unread = int(play.quality_QG.isnan().sum())
    other = "self_reward=likelihood, which needs no rubric, or a judge's prompt (docs/prompts.md)"
    if unread > 0.3 * count:
        many = "no self-score" if unread == count else f"{unread} of {count} self-scores"
        text = f"{many} could {'be read' if unread == count else 'not be read'}"
        if weighs and unread > count / 2:
            text += ": this plays as lsp_zero"
        yield Finding(text, other, stops=weighs and unread > count / 2)
    weight = play.self_reward_weight
    one = auto_weight(play.reward_QG, play.quality_QG, 1.0)
    if weighs and weight and one:
        ratio = weight / one
        text = f"w std(R_Q) / std(R) is {ratio:.2g}: the self-reward is"
        mend = f"method.self_reward_weight={one:.2g} makes them equal, auto does so by itself"
        if ratio > 3:
            yield Finding(f"{text} louder than R", mend)
        elif ratio < 0.03:
            yield Finding(f"{text} not heard beside R", mend)


def known_pairs_findings(config: Config, wins: int, pairs: int, unread: int) -> list[Finding]:
    """Of the self-judge on pairs of a good and a bad answer to one query."""
    weighs = config.method.rewards_quality
    other = "self_reward=likelihood, another judge's prompt (docs/prompts.md), or method=lsp_zero"
    if not config.method.scores_quality or not pairs or wins >= 0.75 * pairs:
        return []
    read = f" ({unread} could not be read)" if unread else ""
    text = f"the self-judge puts a good answer above a bad one in {wins} of {pairs} known pairs"
    return [Finding(f"{text}{read}", other, stops=weighs and wins < 0.6 * pairs)]


def repeats_prompt(text: str, prompt: str) -> bool:
    """Whether at least half of a query's runs of LEAKED_WORDS words stand in its prompt; of a
    shorter one, whether all of it does."""
    words, within = text.lower().split(), " ".join(prompt.lower().split())
    if not words:
        return False
    runs = [" ".join(words[i : i + LEAKED_WORDS]) for i in range(len(words) - LEAKED_WORDS + 1)]
    runs = runs or [" ".join(words)]
    return sum(run in within for run in runs) >= len(runs) / 2
