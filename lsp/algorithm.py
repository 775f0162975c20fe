"""Algorithm 1 of "Language Self-Play For Data-Free Training" (arXiv 2509.07414).

    for step in 1..num_steps:
        q_1..q_N   <- Challenger (or data)                    queries
        a_i1..a_iG <- Solver(q_i)                             answers
        R, R_Q     <- reward, reference under the rubric      rewards
        A_Sol, A_Ch                                           advantages
        theta      <- theta - grad (L_Sol + alpha_Ch L_Ch)    update

LSP, LSP-Zero, GRPO and the controls are settings of these lines.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from lsp import game
from lsp.batch import training_rows
from lsp.contracts import Rows
from lsp.learner import Learner
from lsp.metrics import empty_play, play_metrics
from lsp.model.out_of_memory import memory_guard
from lsp.players import Players
from lsp.queries.diversity import cluster_shares, novelty
from lsp.run.spec import RunSpec
from lsp.settings.config import Config
from lsp.tracking.rows import trace_rows
from lsp.types import Completion, Play, Query


def train(spec: RunSpec, players: Players, learner: Learner, recorder: Recorder) -> dict[str, Any]:
    """Play and learn for ``num_steps``; returns the summary that is also on disk."""
    config = spec.config
    recorder.begin()
    weight, baseline = spec.self_reward_weight, spec.challenger_baseline
    ahead: Asked | None = None
    for step in range(spec.step + 1, config.num_steps + 1):
        clock = Clock(partial(recorder.enter, step))
        lag = float(ahead is not None)
        with learner.whole_policy():
            if ahead is not None:
                with clock.phase("answers"):
                    ahead.answers()
            with clock.phase("queries"):
                players.sync(step - 1)
                asked = ahead or ask(players, players.step_queries(step), step)
                ahead = None
                if asks_ahead(config, step):
                    ahead = ask(players, players.step_queries(step + 1), step + 1, ahead=True)
            play = play_asked(players, config, asked, clock, weight, baseline)
        queries = asked.queries
        weight, baseline = play.self_reward_weight, play.challenger_baseline
        rows = training_rows(
            play,
            config.method,
            config.num_queries,
            config.rollout.max_query_tokens,
            config.rollout.max_new_tokens,
        )
        with clock.phase("update"):
            stats = learner.update(rows, step)
        if ahead is not None and players.processes.size > 1:
            ahead.answers()  # the first process may sync to evaluate
            players.processes.all_gather(None)
        metrics = {
            **play_metrics(queries, play),
            "rollout/lag": lag,
            **stats.metrics(),
            **clock.laps,
        }
        make_rows = partial(trace_rows, spec.run_id, step, queries, play, stats.row)
        stops = recorder.record(step, queries, play, metrics, make_rows)
        if stops and step < config.num_steps:
            return recorder.interrupt(step)
    return recorder.end()


def asks_ahead(config: Config, step: int) -> bool:
    """Whether the rows of the step after this one are asked for before its update. Not across a
    checkpoint, which knows only the weights after it: so a run that goes on from one plays what
    one that was not stopped plays."""
    saved = config.checkpoint.every and step % config.checkpoint.every == 0
    return config.rollout.lag == 1 and step < config.num_steps and not saved


class Asked(NamedTuple):
    """A step's queries, the played ones with their prompts, and this process's ``part`` of them,
    whose answers ``answers`` waits for."""

    step: int
    queries: list[Query]
    played: list[Query]
    prompts: list[list[int]]
    part: slice
    answers: Callable[[], list[list[Completion]]]


def ask(players: Players, queries: list[Query], step: int, ahead: bool = False) -> Asked:
    """Ask the Solver for the answers to a step's queries (those that can be played): once they are
    waited for, or ``ahead`` of that."""
    played = [query for query in queries if query.played]
    prompts = players.chat.encode([players.prompts.solver_messages(q.text) for q in played])
    part = players.processes.part_of(len(played))
    answers: Callable[[], list[list[Completion]]] = list
    if played[part]:
        asked = (prompts[part], step, part.start)
        answers = cache(
            players.begin_answers(*asked) if ahead else partial(players.answers, *asked)
        )
    return Asked(step, queries, played, prompts, part, answers)


def play_queries(
    players: Players,
    config: Config,
    queries: list[Query],
    step: int,
    clock: Clock,
    weight: float | None = None,
    baseline: float = 0.0,
) -> Play:
    """Answers, rewards and advantages of a step's queries. See ``play_asked``."""
    return play_asked(players, config, ask(players, queries, step), clock, weight, baseline)


def play_asked(
    players: Players,
    config: Config,
    asked: Asked,
    clock: Clock,
    weight: float | None = None,
    baseline: float = 0.0,
) -> Play:
    """Answers, rewards and advantages of what was asked. ``weight``: the self-reward's where an
    earlier play has told it; None: the settings', or this play's. ``baseline``: the moving mean of
    the Challenger's reward before this play."""
    method = config.method
    weight = method.fixed_weight if weight is None else weight
    queries, played, prompts = asked.queries, asked.played, asked.prompts
    if not played:
        return replace(empty_play(weight), challenger_baseline=baseline)
    scored = answer_and_score(players, config, asked, clock)
    answered = players.processes.all_gather_lists(scored)

    reward_QG = torch.tensor([one.reward for one in answered], dtype=torch.float32)
    quality_QG = torch.tensor([one.quality for one in answered], dtype=torch.float32)
    if weight is None:
        weight = game.auto_weight(reward_QG, quality_QG, method.self_reward_ratio)
    solver_reward_QG = game.solver_reward(reward_QG, quality_QG, weight or 0.0)
    challenger_reward_Q = game.challenger_reward(
        reward_QG,
        quality_QG,
        weight or 0.0,
        method.challenger_reward,
        config.reward.range,
    )
    if method.repetition_penalty or method.novelty_weight:
        texts = players.chat.encode_text([query.text for query in played])
        challenger_reward_Q -= method.repetition_penalty * torch.tensor(cluster_shares(texts))
        challenger_reward_Q += method.novelty_weight * torch.tensor(novelty(texts))
    invalid = [query for query in queries if not query.played and query.completion is not None]
    if method.invalid_query == "unplayed" or not method.trains_challenger:
        invalid = []
    penalty = method.invalid_query_penalty if method.invalid_query == "penalty" else 0.0
    invalid_reward = game.invalid_query_reward(challenger_reward_Q, penalty)
    earned = torch.cat([challenger_reward_Q, torch.full((len(invalid),), invalid_reward)])
    moving = method.challenger_baseline == "moving"
    advantages = game.challenger_advantage(earned, baseline if moving else None)
    return Play(
        queries=played,
        answers=[one.answers for one in answered],
        solver_prompt_ids=[tuple(prompt) for prompt in prompts],
        reward_QG=reward_QG,
        reward_details={
            name: torch.tensor([one.details[name] for one in answered])
            for name in answered[0].details
        },
        quality_QG=quality_QG,
        quality_text=[one.judged for one in answered] if method.scores_quality else [],
        solver_reward_QG=solver_reward_QG,
        solver_advantage_QG=game.solver_advantage(solver_reward_QG, method.divide_by_std),
        query_value_Q=game.query_value(reward_QG),
        challenger_reward_Q=challenger_reward_Q,
        challenger_advantage_Q=advantages[: len(played)],
        self_reward_weight=weight,
        invalid=invalid,
        invalid_reward=invalid_reward,
        invalid_advantage=advantages[-1].item(),
        challenger_baseline=game.moved_baseline(baseline, earned) if moving else 0.0,
    )


class Answered(NamedTuple):
    """A query's G answers, R and what the reward tells beside it, R_Q (NaN where unread or not
    asked for) and what the judge wrote."""

    answers: list[Completion]
    reward: list[float]
    details: dict[str, list[float]]
    quality: list[float]
    judged: list[str]


def answer_and_score(
    players: Players, config: Config, asked: Asked, clock: Clock
) -> list[Answered]:
    """This process's part of the queries."""
    queries, step = asked.played[asked.part], asked.step
    if not queries:
        return []
    size = config.group_size
    with clock.phase("answers"):
        groups = asked.answers()
    query_texts = [query.text for query in queries for _ in range(size)]
    # Rewards and judge read what a reader would: an answer without the reasoning before it.
    answer_texts = [players.chat.answer_of(answer.text) for group in groups for answer in group]
    with clock.phase("reward"):
        reward = players.reward(query_texts, answer_texts)
        details = players.reward.details()
    quality, judged = [math.nan] * len(answer_texts), [""] * len(answer_texts)
    with clock.phase("quality"):
        if config.method.scores_quality:
            quality, judged = players.qualities(query_texts, answer_texts, step)
    parts = [slice(i * size, (i + 1) * size) for i in range(len(groups))]
    return [
        Answered(
            group,
            reward[part],
            {name: values[part] for name, values in details.items()},
            quality[part],
            judged[part],
        )
        for group, part in zip(groups, parts, strict=True)
    ]


class Clock:
    """Seconds of each phase of a step, as ``time/<phase>``; memory that ends in one names it.
    ``enter`` is told of each that begins."""

    def __init__(self, enter: Callable[[str], None] = lambda phase: None):
        self.enter = enter
        self.laps: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.enter(name)
        started = time.perf_counter()
        with memory_guard(name):
            yield
        lap = f"time/{name}"
        self.laps[lap] = self.laps.get(lap, 0.0) + time.perf_counter() - started


class Recorder(ABC):
    """What ``train`` records to. The first process's keeps the record (lsp/loop/recorder.py); the
    others' hear from it when to stop (lsp/loop/follower.py)."""

    @abstractmethod
    def begin(self) -> None:
        """Before the first step."""

    def enter(self, step: int, phase: str) -> None:
        """A phase of a step begins (lsp/settings/phases.py)."""
        return

    @abstractmethod
    def record(
        self,
        step: int,
        queries: list[Query],
        play: Play,
        metrics: dict[str, float],
        make_rows: Callable[[], Rows],
    ) -> bool:
        """Everything of one step; whether the run stops here. ``make_rows`` is called in another
        thread."""

    @abstractmethod
    def interrupt(self, step: int) -> dict[str, Any]:
        """Save and leave after ``step``. Raises Interrupted where a person should know."""

    @abstractmethod
    def end(self) -> dict[str, Any]:
        """After the last step; the summary."""
