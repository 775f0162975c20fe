"""The rules of the instructions world: sentences and what checks them, either way.

A rule is one sentence of an instruction, with slots: ``Use at least {count} words.`` Read as
written, it says which checker of IFEval (arXiv 2311.07911) applies, with which arguments. Kinds are
split for ever: runs train on ``TRAIN`` kinds, and never meet the others.

Pure Python, no torch and no checker package: readers of settings and of runs import this too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from lsp.instructions.checkers import Constraint
from lsp.settings.prompts import fill


class Slot(NamedTuple):
    """A part of a sentence that differs: what it may be (a pattern), and the ``choices`` that
    seeds and evaluations are made of. ``low``, ``high``: of a number that is legal."""

    pattern: str
    choices: tuple[str, ...]
    low: int = 0
    high: int = 0

    def value(self, text: str) -> int | str | None:
        """What a text in the slot stands for; None where it is not legal."""
        if not self.high:
            return text
        return int(text) if self.low <= int(text) <= self.high else None


def number(low: int, high: int, *choices: int) -> Slot:
    return Slot(r"[1-9][0-9]{0,2}", tuple(map(str, choices)), low, high)


def word(*choices: str) -> Slot:
    return Slot(r"[a-z]{2,20}", choices)


def phrase(*choices: str) -> Slot:
    return Slot(r'[^"\n]{3,60}', choices)


class Rule(NamedTuple):
    """``sentence``: with {slots}. ``arguments``: of the checker; a value that is a slot's name in
    braces, or a list of such, is what stands in the slot."""

    kind: str
    sentence: str
    arguments: Mapping[str, Any] = {}
    slots: Mapping[str, Slot] = {}

    def pattern(self, prefix: str = "") -> str:
        """What its sentence looks like, each slot a group with its name behind ``prefix``."""
        parts = re.split(r"\{(\w+)\}", self.sentence)
        texts, names = parts[::2], parts[1::2]
        groups = [f"(?P<{prefix}{name}>{self.slots[name].pattern})" for name in names] + [""]
        return "".join(re.escape(t) + group for t, group in zip(texts, groups, strict=True))

    def constraint(self, found: Mapping[str, str]) -> Constraint | None:
        """Of a sentence whose slots hold ``found``; None where one holds what is not legal."""
        values = {name: self.slots[name].value(text) for name, text in found.items()}
        if None in values.values() or len(set(values.values())) < len(values):
            return None

        def filled(argument: Any) -> Any:
            if isinstance(argument, list):
                return [filled(each) for each in argument]
            name = argument[1:-1] if isinstance(argument, str) and argument[:1] == "{" else ""
            return values[name] if name else argument

        return Constraint(self.kind, {k: filled(v) for k, v in self.arguments.items()})

    def sentences(self) -> Iterator[str]:
        """Those that the slots' choices come to, no value twice in one."""
        names = list(self.slots)
        for chosen in itertools.product(*(self.slots[name].choices for name in names)):
            if len(set(chosen)) == len(chosen):
                yield fill(self.sentence, dict(zip(names, chosen, strict=True)))


TRAIN = (
    Rule("punctuation:no_comma", "Do not use any commas."),
    Rule("change_case:english_lowercase", "Use lowercase letters only."),
    Rule("change_case:english_capital", "Use capital letters only."),
    Rule("startend:quotation", "Put the whole answer in double quotation marks."),
    Rule("detectable_format:title", "Give it a title in double angular brackets, like <<this>>."),
    Rule(
        "detectable_content:postscript",
        "Add a postscript at the end that begins with P.S.",
        {"postscript_marker": "P.S."},
    ),
    Rule(
        "detectable_format:number_bullet_lists",
        "Write exactly {count} bullet points, each in a line that begins with an asterisk.",
        {"num_bullets": "{count}"},
        {"count": number(1, 20, 2, 3, 4)},
    ),
    Rule(
        "detectable_format:number_highlighted_sections",
        "Highlight at least {count} parts with asterisks, like *this*.",
        {"num_highlights": "{count}"},
        {"count": number(1, 20, 2, 3, 4)},
    ),
    Rule(
        "length_constraints:number_words",
        "Use at least {count} words.",
        {"num_words": "{count}", "relation": "at least"},
        {"count": number(1, 400, 25, 35, 45)},
    ),
    Rule(
        "length_constraints:number_words",
        "Use fewer than {count} words.",
        {"num_words": "{count}", "relation": "less than"},
        {"count": number(2, 400, 10, 20, 30)},
    ),
    Rule(
        "keywords:existence",
        "Include the words {first} and {second}.",
        {"keywords": ["{first}", "{second}"]},
        {
            "first": word("morning", "friend", "simple", "water", "always"),
            "second": word("light", "together", "garden", "question", "never"),
        },
    ),
    Rule(
        "keywords:forbidden_words",
        "Do not use the words {first} and {second}.",
        {"forbidden_words": ["{first}", "{second}"]},
        {
            "first": word("and", "the", "you", "of"),
            "second": word("is", "can", "your", "in"),
        },
    ),
    Rule(
        "startend:end_checker",
        'End with exactly these words: "{words}"',
        {"end_phrase": "{words}"},
        {
            "words": phrase(
                "Any other questions?", "That is all.", "I hope this helps.", "See you soon!"
            )
        },
    ),
)

HELD_OUT = (
    Rule("detectable_format:json_format", "Write the whole answer as JSON."),
    Rule(
        "combination:two_responses",
        "Give two different answers, with six asterisks between: ******",
    ),
    Rule(
        "detectable_content:number_placeholders",
        "Use at least {count} placeholders in square brackets, such as [name].",
        {"num_placeholders": "{count}"},
        {"count": number(1, 20, 2, 3, 4)},
    ),
    Rule(
        "length_constraints:number_paragraphs",
        "Write exactly {count} paragraphs, with three asterisks between two of them: ***",
        {"num_paragraphs": "{count}"},
        {"count": number(2, 10, 2, 3)},
    ),
    Rule(
        "length_constraints:number_sentences",
        "Use fewer than {count} sentences.",
        {"num_sentences": "{count}", "relation": "less than"},
        {"count": number(2, 40, 3, 4)},
    ),
    Rule(
        "keywords:frequency",
        "Use the word {word} at least {count} times.",
        {"keyword": "{word}", "frequency": "{count}", "relation": "at least"},
        {"word": word("time", "good"), "count": number(1, 20, 2, 3)},
    ),
    Rule(
        "keywords:letter_frequency",
        "Use the letter {letter} at least {count} times.",
        {"letter": "{letter}", "let_frequency": "{count}", "let_relation": "at least"},
        {"letter": Slot("[a-z]", ("q", "z")), "count": number(1, 40, 2, 4)},
    ),
    Rule(
        "change_case:capital_word_frequency",
        "Write at least {count} words in capital letters.",
        {"capital_frequency": "{count}", "capital_relation": "at least"},
        {"count": number(1, 40, 2, 4)},
    ),
)

RULES = (*TRAIN, *HELD_OUT)
MOST = 3
"""Rules of one instruction, at most."""


def kinds(rules: Sequence[Rule] = RULES) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(rule.kind for rule in rules))


TOGETHER_NEVER = (
    {"change_case:english_lowercase", "change_case:english_capital"},
    {"startend:quotation", "detectable_format:number_bullet_lists"},
    {"keywords:forbidden_words", "startend:end_checker"},
)
"""Kinds that no answer can follow both, whatever their arguments."""


def fit(one: Rule, other: Rule) -> bool:
    """Whether an instruction can have both."""
    return one.kind != other.kind and {one.kind, other.kind} not in TOGETHER_NEVER


def seeds(rules: Sequence[Rule], count: int) -> list[str]:
    """What Challengers are given and data are made of: ``count`` of each rule, every third with a
    second one behind it."""
    found, pairs = [], itertools.count()
    for place, rule in enumerate(rules):
        sentences = list(rule.sentences())
        for k in range(count):
            text = sentences[(place + k * max(1, len(sentences) // count)) % len(sentences)]
            if k % 3 == 2:
                others = [other for other in rules if fit(rule, other)]
                other = others[(5 * next(pairs) + place) % len(others)]
                choices = list(other.sentences())
                text += " " + choices[(place + k) % len(choices)]
            found.append(text)
    return found


class Instruction(NamedTuple):
    """A legal query: what is to be written, and the rules that it must follow."""

    task: str
    constraints: tuple[Constraint, ...]


@cache
def _last_rule() -> re.Pattern[str]:
    """All sentences as one pattern that is looked for at the end of a text; a slot's group is named
    by its rule's number too."""
    named = (f"(?P<r{i}>{rule.pattern(f'r{i}_')})" for i, rule in enumerate(RULES))
    return re.compile(rf"(?:^|\s)(?:{'|'.join(named)})\s*$")


@lru_cache(maxsize=2**16)
def parse(query: str) -> Instruction | None:
    """The instruction that a text states: a task with a letter in it, and one to three sentences of
    rules at its end, no kind twice. None where it is none."""
    constraints: list[Constraint] = []
    rest = query
    while match := _last_rule().search(rest):
        rule = RULES[int(match.lastgroup.removeprefix("r"))]
        constraint = rule.constraint(
            {name: match[f"{match.lastgroup}_{name}"] for name in rule.slots}
        )
        if constraint is None or constraint.kind in [c.kind for c in constraints]:
            return None
        constraints.append(constraint)
        rest = rest[: match.start()]
    task = rest.strip()
    if not 1 <= len(constraints) <= MOST or not any(map(str.isalpha, task)):
        return None
    return Instruction(task, tuple(reversed(constraints)))
