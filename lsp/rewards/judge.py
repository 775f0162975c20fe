"""An external reward by any chat server: settings go in, what is asked about a pair comes out;
lsp/rewards/judge_scorer.py asks it.

Pointwise, a judge grades one answer. Pairwise, it compares an answer with that of a fixed opponent,
another chat model, to the same query. R is the mean of what the judge may say under its own
probabilities, where the server gives log-probs; else what its text says, by a strict rule.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from lsp.contracts import BuildContext, RewardSettings
from lsp.judging.cache import spent_of
from lsp.judging.client import Messages, as_messages, most_prompt_tokens
from lsp.judging.server import ChatServer
from lsp.judging.spending import prices
from lsp.rewards.judge_scorer import OPPONENT, JudgeScorer, Question
from lsp.rewards.self_reward import pair_number
from lsp.settings.prompts import fill
from lsp.settings.schema import key_of_part, setting, settings

if TYPE_CHECKING:
    from lsp.settings.config import Config

Digit = Annotated[int, Field(ge=0, le=9)]
FIRST, SECOND = "1", "2"


@settings
class JudgeReward(ChatServer, RewardSettings):
    """What grading and comparing share."""

    logprobs: bool = setting("ask for log-probs; the text decides where there are none")
    system: str = setting("the judge's system message")
    question: str = setting("what the judge is asked; texts are filled in as JSON strings")
    unread: float | None = setting(
        "R of a pair that the judge refuses or answers unreadably; null: that ends the run",
        ge=0,
        le=1,
    )
    max_usd: float | None = setting(
        "end the run before the calls that its cache has counted cost more", gt=0, le=1e6
    )
    cache: str | None = setting(
        "the file that keeps verdicts and what they cost, on a disk of this machine; null:"
        " <runs_root>/judged.sqlite"
    )

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    places: ClassVar[Sequence[str]]
    """What ``question`` must have places for."""

    @property
    @abstractmethod
    def labels(self) -> Sequence[str]:
        """What the judge may answer."""

    @abstractmethod
    def questions(self, query: str, answer: str, other: str) -> list[Question]:
        """What is asked about a pair; R is the mean over them, 1/2 where there are none. ``other``:
        the opponent's answer."""

    @property
    def words(self) -> Mapping[str, str]:
        """What is filled into every prompt beside the texts of a pair."""
        return {}

    @property
    def questions_of_a_pair(self) -> int:
        return 1

    @property
    def servers(self) -> Mapping[str, ChatServer]:
        """Who is asked, the judge first; by name."""
        return {"judge": self}

    def messages(self, texts: Mapping[str, str]) -> Messages:
        """The prompt about these texts, by their places. Raises ValueError for a place that has
        none."""
        # As JSON strings, which nothing in a text can close.
        values = {place: json.dumps(text, ensure_ascii=False) for place, text in texts.items()}
        turns = {"system": self.system, "user": self.question}
        return as_messages(
            [(role, fill(text, {**values, **self.words})) for role, text in turns.items()]
        )

    def file(self, config: Config) -> Path:
        """The cache."""
        return Path(config.runs_root) / "judged.sqlite" if self.cache is None else Path(self.cache)

    def key(self, config: Config) -> str:
        """Of these settings in a run's."""
        return key_of_part(config, self) or "reward"

    def may_change(self) -> Sequence[str]:
        names = "concurrency", "requests_per_minute", "timeout_seconds", "max_tries"
        each = [
            name if server is self else f"{who}.{name}"
            for who, server in self.servers.items()
            for name in names
        ]
        return ["max_usd", *each]

    def problems(self, config: Config) -> list[tuple[str, str]]:
        return [*self._server_problems(), *self._prompt_problems(), *self._cache_problems()]

    def _server_problems(self) -> Iterator[tuple[str, str]]:
        for name, server in self.servers.items():
            found = [*server.server_problems(), *server.key_problems()]
            if self.max_usd is not None and server.model and prices(server.model).input is None:
                reason = f"max_usd={self.max_usd:g} needs the price of {server.model}"
                found.append((reason, "add it to conf/judges.json, or say max_usd=null"))
            for reason, fix in found:
                yield reason if server is self else f"{name}: {reason}", fix

    def _prompt_problems(self) -> Iterator[tuple[str, str]]:
        for place in self.places:
            if f"{{{place}}}" not in self.question:
                yield f"question has no {{{place}}}", "write it where that text is to stand"
        try:
            self.messages(dict.fromkeys(self.places, ""))
        except ValueError as error:
            yield str(error), "write those alone in system and question"

    def _cache_problems(self) -> Iterator[tuple[str, str]]:
        size = os.environ.get("WORLD_SIZE", "1")
        if self.cache is None and os.environ.get("LOCAL_WORLD_SIZE", size) != size:
            reason = "processes of several machines cannot share a cache (SQLite)"
            yield reason, "say cache=<a file on a disk that each machine has of its own>"

    def check(self, context: BuildContext) -> None:
        """Raises ValueError where nothing is left to be spent. No file is made."""
        file, key = self.file(context.config), self.key(context.config)
        usd = spent_of(file)
        if self.max_usd is not None and usd >= self.max_usd:
            problem = f"{key}.max_usd={self.max_usd:g} is spent: calls in {file} cost ${usd:.2f}"
            raise ValueError(f"{problem}; raise it, or name another file as {key}.cache")

    def calls(self, config: Config) -> list[str]:
        pairs = config.num_queries * config.group_size
        lines, usd, unknown = [], 0.0, []
        for name, server in self.servers.items():
            calls = pairs * self.questions_of_a_pair if server is self else config.num_queries
            lines.append(
                f"the {name} {server.model} at {server.url}: at most {calls:,} calls a step,"
                f" {calls * config.num_steps:,} in all"
            )
            price, prompt = prices(server.model), self._longest_prompt(config, server)
            usd += calls * price.usd(prompt, server.max_tokens)
            unknown += [server.model] if price.input is None else []
        if unknown:
            lines.append(
                f"dollars unknown: no price of {' and '.join(unknown)} in conf/judges.json"
            )
        else:
            lines.append(
                f"at most ${usd:,.2f} a step, ${usd * config.num_steps:,.2f} in all: texts at their"
                " longest, a token of the policy one of the judge's, no call made again"
            )
        file, ends = self.file(config), "max_usd=null is no limit"
        if self.max_usd is not None:
            ends = f"max_usd={self.max_usd:g} ends the run before more is"
        return [*lines, f"${spent_of(file):.2f} spent so far ({file}); {ends}"]

    def _longest_prompt(self, config: Config, server: ChatServer) -> int:
        """Tokens, at most: a byte of the prompt's own words counts as one, and a token of the
        policy's too."""
        rollout, prompts = config.rollout, config.prompts
        query = rollout.max_query_tokens + len(prompts.longest_form().encode())
        if server is not self:
            return query + most_prompt_tokens(as_messages(prompts.solver_messages("")))
        around = most_prompt_tokens(self.messages(dict.fromkeys(self.places, "")))
        answers = [server.max_tokens for name, server in self.servers.items() if name == OPPONENT]
        return around + query + rollout.max_new_tokens + sum(answers)

    def build(self, context: BuildContext) -> JudgeScorer:
        return JudgeScorer(self, context.config)


@settings
class GradeReward(JudgeReward):
    """R is a judge's grade of an answer, 0 for the lowest and 1 for the highest: the mean over the
    digits that it may say."""

    grades: tuple[Digit, Digit] = setting("the lowest and the highest grade, two digits")

    places = ("query", "answer")

    @property
    def labels(self) -> Sequence[str]:
        return [str(digit) for digit in range(self.grades[0], self.grades[1] + 1)]

    @property
    def words(self) -> Mapping[str, str]:
        return {"lowest": str(self.grades[0]), "highest": str(self.grades[1])}

    def questions(self, query: str, answer: str, other: str) -> list[Question]:
        low, high = self.grades
        values = {label: (int(label) - low) / (high - low) for label in self.labels}
        return [Question(self.messages({"query": query, "answer": answer}), values)]

    def problems(self, config: Config) -> list[tuple[str, str]]:
        low, high = self.grades
        problems = super().problems(config)
        if low >= high:
            reason = f"grades=[{low},{high}] does not go from a lower to a higher digit"
            problems.append((reason, "write grades=[0,9], say"))
        return problems


@settings
class PreferenceReward(JudgeReward):
    """R is the probability that a judge prefers an answer to that of a fixed opponent, another chat
    model, to the same query."""

    opponent: ChatServer = setting("who answers each query once, for all answers to it")
    order: Literal["both", "one"] = setting(
        "each answer is shown first and second; or one of the two, drawn from the pair"
    )

    places = ("query", "first", "second")
    labels = (FIRST, SECOND)

    @property
    def questions_of_a_pair(self) -> int:
        return 2 if self.order == "both" else 1

    @property
    def servers(self) -> Mapping[str, ChatServer]:
        return {"judge": self, OPPONENT: self.opponent}

    def questions(self, query: str, answer: str, other: str) -> list[Question]:
        if answer == other:
            return []
        drawn = bool(pair_number(query, answer) % 2)
        questions = []
        for answer_first in (True, False) if self.order == "both" else (drawn,):
            first, second = (answer, other) if answer_first else (other, answer)
            values = {FIRST: float(answer_first), SECOND: float(not answer_first)}
            messages = self.messages({"query": query, "first": first, "second": second})
            questions.append(Question(messages, values))
        return questions
