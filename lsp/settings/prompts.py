"""The words of the roles: settings and texts in, messages out.

**Text that a model wrote never becomes structure**: role prompts are filled by one-pass
replacement, so an answer that spells ``{query}`` stays itself. lsp/model/chat.py encodes what comes
out here, under the same rule.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from lsp.errors import RunError
from lsp.settings.schema import setting, settings
from lsp.tools.places import CONF
from lsp.tools.rows import read_lines, read_rows

ChatRole = Literal["system", "user", "assistant", "opening"]
"""``opening``: how the assistant's turn begins, in a last message that the model goes on with."""
Messages = list[tuple[ChatRole, str]]
"""A conversation: (who speaks, what)."""


@settings
class JudgeShot:
    """An exchange whose total is shown to the judge."""

    query: str = setting("what the user said")
    answer: str = setting("what the assistant said")
    total: str = setting("what the judge is to say of it, after its opening")


@settings
class Prompts:
    """The words of one world's roles (``conf/prompts/*.yaml``)."""

    challenger: str = setting(
        "what the Challenger is asked; {task}, {template}, {seed}, {examples} and {number} (theirs"
        " and one) are filled in"
    )
    challenger_task: str = setting("the {task} of the Challenger's prompt")
    challenger_template: str = setting(
        "the {template} of the Challenger's prompt; a query that is not it, its {placeholders}"
        " filled, is malformed"
    )
    challenger_opening: str = setting(
        "how the Challenger's turn begins; it bears no loss", default=""
    )
    challenger_examples: tuple[str, ...] = setting(
        "what the {examples} of prompt or opening are drawn from, anew for each query", default=()
    )
    challenger_shots: int = setting("examples drawn for a query", ge=0, le=1000, default=0)
    challenger_example: str = setting(
        "how {example} number {number} is written", default="{number}. {example}\n"
    )
    challenger_seeds: str | None = setting(
        "a file from which each query's {seed} is drawn: a .txt with one in each line, or rows with"
        " a column text (.json, .jsonl, .csv, .parquet, also as .gz); null: none",
        default=None,
    )
    challenger_stop: tuple[str, ...] = setting(
        "strings that end a query, beside rollout.stop", default=()
    )
    query_form: str = setting(
        "the query that is played, of what the Challenger has {written} and its {seed}",
        default="{written}",
    )
    template_tags: tuple[str, ...] = setting(
        "taken off the two ends of a query; one that remains inside makes it malformed"
    )
    solver: str = setting(
        "a system message before each query; empty as in the paper: the query alone", default=""
    )
    judge_rubric: str = setting(
        "a system message before what is judged, whose states all pairs share", default=""
    )
    judge_shots: dict[str, JudgeShot] = setting(
        "judged exchanges before it, by names of the user's", default_factory=dict
    )
    judge: str = setting("what the judge is asked after a query and its answer")
    judge_opening: str = setting(
        "how the judge's turn begins; in expected mode the digit is the next token"
    )
    judge_tag: str = setting(
        "surrounds the total in generate mode; empty: the judge's text is one digit"
    )

    def challenger_messages(self, seed: str = "", examples: Sequence[str] = ()) -> Messages:
        lines = [
            fill(self.challenger_example, {"number": str(number), "example": example})
            for number, example in enumerate(examples, 1)
        ]
        values = {
            "task": self.challenger_task,
            "template": self.challenger_template,
            "seed": seed,
            "examples": "".join(lines),
            "number": str(len(lines) + 1),
        }
        messages: Messages = [("user", fill(self.challenger, values))]
        if self.challenger_opening:
            messages.append(("opening", fill(self.challenger_opening, values)))
        return messages

    @property
    def drawn(self) -> bool:
        """Whether each query has a prompt of its own."""
        return self.challenger_shots > 0 or self.challenger_seeds is not None

    def seeds(self) -> tuple[str, ...]:
        """Those of ``challenger_seeds``; empty where that names no file."""
        return read_seeds(self.challenger_seeds) if self.challenger_seeds else ()

    def longest_challenger_messages(self) -> Messages:
        """Of the prompts that could be drawn one with the most characters."""
        longest = sorted(self.challenger_examples, key=len, reverse=True)
        seed = max(self.seeds(), key=len, default="")
        return self.challenger_messages(seed, longest[: self.challenger_shots])

    def seeds_identity(self) -> str | None:
        """The seeds by hash, since their file lies outside the run's folder; None without any."""
        text = "\n".join(self.seeds())
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}" if text else None

    def longest_form(self) -> str:
        """What ``query_form`` and a seed can add to a query at most, by characters."""
        seed = max(self.seeds(), key=len, default="")
        return fill(self.query_form, {"written": "", "seed": seed})

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """(setting, reason, way out) of what cannot be filled in."""
        shown = self.challenger + self.challenger_opening
        if self.challenger_shots > len(self.challenger_examples):
            reason = f"there are {len(self.challenger_examples)} examples to draw from"
            yield "challenger_shots", reason, "add to prompts.challenger_examples, or lower it"
        if self.challenger_shots and "{examples}" not in shown:
            reason = "neither the Challenger's prompt nor its opening has {examples}"
            yield "challenger_shots", reason, "write {examples} where they are to stand, or 0"
        with_seed = "{seed}" in shown + self.query_form
        if with_seed != (self.challenger_seeds is not None):
            reason = "is given and used nowhere" if not with_seed else "is not given, and used"
            fix = "write {seed} in prompts.challenger, its opening or query_form, and name the file"
            yield "challenger_seeds", reason, fix
        try:
            self.seeds()
        except RunError as error:
            fix = "give a .txt with a seed in each line, or rows with a column text"
            yield "challenger_seeds", str(error), fix
        if "{written}" not in self.query_form:
            yield "query_form", "leaves out what the Challenger wrote", "write {written} in it"
        for name, values in (
            ("challenger_example", {"number": "", "example": ""}),
            ("query_form", {"written": "", "seed": ""}),
        ):
            try:
                fill(getattr(self, name), values)
            except ValueError as error:
                yield name, str(error), f"use {' and '.join(f'{{{key}}}' for key in values)} alone"

    def solver_messages(self, query: str) -> Messages:
        system: Messages = [("system", self.solver)] if self.solver else []
        return [*system, ("user", query)]

    def judge_messages(self, query: str, answer: str) -> Messages:
        """What the self-judge sees. Query and answer are turns, not fields of one text, so
        that nothing in them can close a field or speak for the judge. What all pairs share comes
        first."""
        messages: Messages = [("system", self.judge_rubric)] if self.judge_rubric else []
        for shot in self.judge_shots.values():
            messages += [("user", shot.query), ("assistant", shot.answer), ("user", self.judge)]
            messages.append(("assistant", self.judge_opening + shot.total))
        return [*messages, ("user", query), ("assistant", answer), ("user", self.judge)]


def prompt_file(name: str) -> Path:
    """A file that settings name: as a path from here, or from conf/ where it is there."""
    path = Path(os.path.expanduser(name))
    ours = CONF / name
    return ours if os.path.exists(ours) and not os.path.exists(path) else path


@cache
def read_seeds(name: str) -> tuple[str, ...]:
    """The seeds of a file: the lines of a .txt, or the column ``text`` of a file of rows. Raises
    RunError where it holds none."""
    path = prompt_file(name)
    if path.suffix == ".txt":
        seeds = tuple(line.strip() for line in read_lines(path))
    else:
        seeds = tuple(row.text("text").strip() for row in read_rows(path))
    if not seeds:
        raise RunError(f"{path} holds no seed")
    return seeds


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` in one pass: a value that contains ``{other}`` is not filled again.
    Raises ValueError for a placeholder without a value."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"prompt placeholder {match[0]} has no value; known: {sorted(values)}")
        return values[match[1]]

    return re.sub(r"\{(\w+)\}", value_of, template)
