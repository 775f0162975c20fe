"""``lsp preflight <the settings of a run>``: is there a game to spend hours on?

Loads the models once and plays sixteen queries and sixteen answers under these settings, tries the
self-judge on pairs of known quality, takes one update, and ends in findings in plain words, each
with the setting that mends it. Exit status 1: the game that the settings name is not played, or
cannot be loaded at all.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lsp.cli.main import run
from lsp.errors import ConfigError, RunError
from lsp.loop.launch import load, thread_environment
from lsp.model.processes import ALONE
from lsp.plan.memory import GB, crowding, plan_memory, refuse_impossible
from lsp.plan.step_size import step_size_of
from lsp.run.init import NoEarlierRun, resolve_init
from lsp.run.spec import RunSpec
from lsp.settings.compose import compose
from lsp.settings.config import Config
from lsp.tools.heartbeat import Heartbeat, enter
from lsp.tools.text import duration, folded, visible

if TYPE_CHECKING:
    from lsp.learner import Learner
    from lsp.loop.findings import Finding
    from lsp.players import Players
    from lsp.types import Play, Query

QUERIES, PLAYED, ANSWERS = 16, 8, 2
"""Queries that are asked for; how many of them are answered; answers to each."""
WIDTH = 100
BAD = ("off-topic", "empty", "gibberish")


class KnownPairs(NamedTuple):
    """Scores of the good answers, and of each kind of bad one, query by query; NaN: unread."""

    good: list[float]
    bad: dict[str, list[float]]

    @property
    def wins(self) -> dict[str, int]:
        """Of each kind, how many the good answer to the same query beats."""
        return {
            kind: sum(good > bad for good, bad in zip(self.good, scores, strict=True))
            for kind, scores in self.bad.items()
        }

    @property
    def unread(self) -> int:
        return sum(score != score for scores in (self.good, *self.bad.values()) for score in scores)


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    thread_environment()
    from lsp.model.out_of_memory import OutOfMemory

    try:
        config = compose(arguments)
        if config.resume:
            raise RunError("preflight is for a run that is to begin; leave resume out")
        with Heartbeat("loading"):
            findings = list(preflight(config))
    except OutOfMemory as error:
        print(f"error: {error.advice(config)}", file=sys.stderr)
        return 1
    except (ConfigError, RunError, ValueError) as error:  # texts for the user, all of them
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\nfindings")
    for finding in findings:
        mark = "STOP" if finding.stops else "note"
        print("\n".join(folded(f"{finding.text}. Way out: {finding.mend}.", WIDTH, f"  {mark}  ")))
    stops = any(finding.stops for finding in findings)
    print("  the game is on" if not stops else "  these settings do not play their game")
    return int(stops)


def preflight(config: Config) -> Iterator[Finding]:
    """Plays and prints; what was found."""
    try:
        init = resolve_init(config)
    except NoEarlierRun as error:
        raise RunError(f"{error}; make it first, or look at the game from init=base") from error
    from lsp.algorithm import Clock, play_queries
    from lsp.loop.findings import Finding, known_pairs_findings, step_findings

    refuse_impossible(config)
    small = replace(config, num_queries=QUERIES, group_size=ANSWERS)
    started = time.perf_counter()
    players, learner, _ = load(RunSpec(small, "preflight", init), ALONE)
    print(f"loaded in {duration(time.perf_counter() - started)}: {config.model.name}", flush=True)
    clock = Clock(enter)
    with clock.phase("queries"):
        players.sync(0)
        queries = players.step_queries(1)
    prompts = [players.chat.tokenizer.decode(list(query.prompt_ids)) for query in queries]
    show_queries(config, queries, prompts)
    played = [query for query in queries if query.played]
    unplayed = [query for query in queries if not query.played]
    play = play_queries(players, small, [*played[:PLAYED], *unplayed], 1, clock)
    show_answers(play)
    yield from step_findings(config, queries, prompts, play)
    pairs = config.world.known_pairs() if config.method.scores_quality else ()
    if pairs:
        known = judge_known(players, pairs)
        show_known(known)
        count = len(BAD) * len(known.good)
        yield from known_pairs_findings(config, sum(known.wins.values()), count, known.unread)
    update(small, learner, play, clock)
    show_costs(config, players, queries, play, clock.laps)
    for text in crowding(config):
        yield Finding(text, "dry_run=true shows what takes it, by phase and part")


def show_queries(config: Config, queries: Sequence[Query], prompts: Sequence[str]) -> None:
    from lsp.loop.findings import repeats_prompt

    print(f"\n{len(queries)} queries of {config.method.label}")
    for query in queries:
        status = "" if query.played else f"[{query.status}] "
        print("\n".join(folded(f"{status}{visible(query.text, 300)}", WIDTH, "  ? ")))
    count, statuses = len(queries), Counter(query.status for query in queries)
    shares = {
        "complete": sum(query.played for query in queries),
        "cut": statuses["length"],
        "empty": statuses["empty"],
        "malformed": statuses["malformed"],
        "illegal": statuses["illegal"],
        "distinct": len({query.text for query in queries}),
        "leaked from the prompt": sum(
            repeats_prompt(query.text, prompt)
            for query, prompt in zip(queries, prompts, strict=True)
            if query.prompt_ids
        ),
    }
    print("  " + ", ".join(f"{name} {n / count:.0%}" for name, n in shares.items()), flush=True)


def show_answers(play: Play) -> None:
    print(f"\n{play.reward_QG.numel()} answers")
    for i, query in enumerate(play.queries):
        print("\n".join(folded(visible(query.text, 160), WIDTH, "  ? ")))
        for j, answer in enumerate(play.answers[i]):
            cut = "" if answer.finish_reason == "stop" else " [cut]"
            quality = f"  R_Q {play.quality_QG[i, j]:.2f}" if play.quality_text else ""
            facts = f"R {play.reward_QG[i, j]:.3f}{quality}{cut}  "
            print("\n".join(folded(facts + visible(answer.text, 160), WIDTH, "    > ")))
    if not play.queries:
        return
    rewards = play.reward_QG
    print(f"  R from {rewards.min():.3g} to {rewards.max():.3g}, std {rewards.std():.3g}", end="")
    read = play.quality_QG[~play.quality_QG.isnan()]
    if play.quality_text:
        share = read.numel() / play.quality_QG.numel()
        spread = f", std {read.std():.3g}" if read.numel() > 1 else ""
        weight = play.self_reward_weight
        print(f"; R_Q read {share:.0%}{spread}", end="")
        if read.numel() > 1 and rewards.std() > 0 and weight is not None:
            ratio = weight * read.std() / rewards.std()
            print(f"; w = {weight:.3g}, w std(R_Q) / std(R) = {ratio:.2g}", end="")
    print(flush=True)


def judge_known(players: Players, pairs: Sequence[tuple[str, str]]) -> KnownPairs:
    """Scores of good answers, of the next query's answer, of none, and of the words in disorder."""
    queries, good = map(list, zip(*pairs, strict=True))
    bad = {"off-topic": [*good[1:], good[0]], "empty": [""] * len(good)}
    bad["gibberish"] = [shuffled(answer) for answer in good]
    answers = [*good, *(text for kind in BAD for text in bad[kind])]
    enter("the self-judge on known pairs")
    scores, _ = players.qualities(queries * (1 + len(BAD)), answers, 1)
    parts = [scores[i : i + len(good)] for i in range(0, len(scores), len(good))]
    return KnownPairs(parts[0], dict(zip(BAD, parts[1:], strict=True)))


def shuffled(text: str) -> str:
    """Its words in another order; letters, where there is one word."""
    one = " " not in text
    parts = list(text) if one else text.split()
    random.Random(text).shuffle(parts)
    return ("" if one else " ").join(parts)


def show_known(known: KnownPairs) -> None:
    count = len(known.good)
    total = count * (1 + len(BAD))
    print(f"\nself-judge on known pairs: read {1 - known.unread / total:.0%}")
    for kind, wins in known.wins.items():
        print(f"  good above {kind:<10} {wins} of {count}")
    print(f"  in all {sum(known.wins.values())} of {count * len(BAD)}", flush=True)


def update(config: Config, learner: Learner, play: Play, clock: object) -> None:
    """One update on what was played, for its time and memory; the models are thrown away after."""
    from lsp.batch import training_rows

    limits = config.rollout.max_query_tokens, config.rollout.max_new_tokens
    rows = training_rows(play, config.method, config.num_queries, *limits)
    with clock.phase("update"):
        learner.update(rows, 1)


def show_costs(
    config: Config,
    players: Players,
    queries: Sequence[Query],
    play: Play,
    laps: dict[str, float],
) -> None:
    """Rates as measured, and what they come to for a step of the settings' size: at most, since
    larger batches are faster."""
    from lsp.model.device import memory_of, peak_memory_mb
    from lsp.model.shapes import UnknownShape

    asked = sum(len(query.completion.ids) for query in queries if query.completion)
    answers = [answer for group in play.answers for answer in group]
    print("\ncosts")
    seconds = laps["time/queries"] * config.num_queries / len(queries)
    if answers:
        written = sum(len(answer.ids) for answer in answers)
        decoding = laps["time/queries"] * bool(asked) + laps["time/answers"]
        rate = (asked + written) / decoding
        print(f"  {rate:,.0f} tokens a second decoded: hardware.tokens_per_second={rate:.3g}")
        larger = config.num_queries * config.group_size / len(answers)
        seconds += larger * sum(
            laps[f"time/{p}"] for p in ("answers", "reward", "quality", "update")
        )
        print(f"  a step of {config.num_queries} x {config.group_size}: about {seconds:,.1f} s, so")
        print(f"  {config.num_steps} steps: about {duration(seconds * config.num_steps)}")
    peak = peak_memory_mb(players.device) * 2**20
    try:
        planned = f"{plan_memory(step_size_of(config)).peak / GB:.1f} GB"
    except UnknownShape as error:
        planned = f"not known ({error})"
    has = memory_of(players.device)
    there = "" if has is None else f"; there are {has / GB:.1f} GB"
    print(f"  memory: {peak / GB:.1f} GB so far, imports and freed memory that is kept among it")
    print(f"          planned for a full step, without these: {planned}{there}", flush=True)


if __name__ == "__main__":
    sys.exit(run("preflight", sys.argv[1:]))
