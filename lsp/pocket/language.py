"""The pocket language: a query goes in, its task, its one right answer and scores come out.

A query is ``"<family> <argument>"``, e.g. ``"reverse abca"``; the argument is 1 to 8 letters
over ``abc``. There are 9,840 arguments and eight families, so 78,720 legal queries: every one
has exactly one right answer and a known place in a split. Difficulty grows with the length.

Pure Python, no torch: configuration checks and readers of traces import this too.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

ALPHABET = "abc"
MAX_LENGTH = 8

FAMILIES: dict[str, Callable[[str], str]] = {
    "copy": lambda s: s,
    "upper": lambda s: s.upper(),
    "reverse": lambda s: s[::-1],
    "sort": lambda s: "".join(sorted(s)),
    "rotate": lambda s: s[1:] + s[:1],
    "swap": lambda s: s.translate(str.maketrans("abc", "bca")),
    "count": lambda s: str(len(s)),
    "last": lambda s: s[-1],
}
"""Task name -> right answer for an argument. ``swap`` turns a into b, b into c, c into a."""


class Task(NamedTuple):
    """A parsed legal query, e.g. ``Task("reverse", "abca")``."""

    family: str
    argument: str

    @property
    def query(self) -> str:
        return f"{self.family} {self.argument}"

    @property
    def right_answer(self) -> str:
        return FAMILIES[self.family](self.argument)


def parse(query: str) -> Task | None:
    """The task that a query states, or None where it is not legal (no repair, no stripping)."""
    family, separator, argument = query.partition(" ")
    legal = (
        bool(separator)
        and family in FAMILIES
        and 1 <= len(argument) <= MAX_LENGTH
        and set(argument) <= set(ALPHABET)
    )
    return Task(family, argument) if legal else None


def arguments(length: int) -> Iterator[str]:
    """All arguments of one length, in alphabetical order."""
    return map("".join, itertools.product(ALPHABET, repeat=length))


def legal_queries() -> Iterator[Task]:
    """Every legal query: by family, then length, then alphabet."""
    for family in FAMILIES:
        for length in range(1, MAX_LENGTH + 1):
            for argument in arguments(length):
                yield Task(family, argument)


def split(task: Task) -> str:
    """``dev`` (15 %), ``test`` (35 %) or ``train``: a hash of the query decides, for ever."""
    fraction = int.from_bytes(hashlib.sha256(task.query.encode()).digest()[:4], "big") / 2**32
    return "dev" if fraction < 0.15 else "test" if fraction < 0.5 else "train"


def verify(query: str, answer: str, credit: str = "partial") -> float:
    """External reward R in [0, 1].

    ``credit="exact"``: 1 for the right answer, else 0. ``credit="partial"``: the share of
    positions at which the answer agrees with the right one, over the longer of the two.
    A query that is not legal has no right answer and scores 0, the lowest value there is.
    """
    if credit not in ("partial", "exact"):
        raise ValueError(f"credit={credit!r}: it must be 'partial' or 'exact'")
    task = parse(query)
    if task is None:
        return 0.0
    right = task.right_answer
    if credit == "exact" or answer == right:
        return float(answer == right)
    return sum(a == b for a, b in zip(answer, right, strict=False)) / max(len(answer), len(right))


def form_rubric(query: str, answer: str) -> int:
    """Quality R_Q in 0..7: one point for each yes. It looks at form, never at correctness.

    1. the task can be identified (the query's first word is a family);
    2. the query is legal: clear, specific, well formed;
    3. the answer can be read: not empty, only characters that answers are made of;
    then, for a legal query only:
    4. the answer uses the characters that the task asks for (capitals, letters, one digit);
    5. it is as long as the task asks for;
    6. it is concise: no longer than the argument;
    7. it stays with the argument: only letters of it (any digit for ``count``; for ``swap``
       the letters that the argument's turn into).
    The seven questions mirror the seven points of the paper's rubric (arXiv 2509.07414).
    """
    task = parse(query)
    score = int(query.split(" ")[0] in FAMILIES) + int(task is not None)
    score += int(bool(answer) and set(answer) <= set("abcABC0123456789"))
    if task is None:
        return score
    if task.family == "count":
        characters, argument_characters = set("0123456789"), set("0123456789")
    elif task.family == "upper":
        characters, argument_characters = set("ABC"), set(task.argument.upper())
    else:
        characters = set(ALPHABET)
        argument_characters = (
            set(task.right_answer) if task.family == "swap" else set(task.argument)
        )
    score += int(bool(answer) and set(answer) <= characters)
    score += int(len(answer) == len(task.right_answer))
    score += int(0 < len(answer) <= len(task.argument))
    score += int(bool(answer) and set(answer) <= argument_characters)
    return score


def evaluation_queries(name: str, per_cell: int) -> list[Task]:
    """The ``dev`` or ``test`` queries: at most ``per_cell`` of each (family, length), spread
    evenly over the alphabet. Short lengths have fewer (three letters give three arguments)."""
    if name not in ("dev", "test"):
        raise ValueError(f"split {name!r}: it must be 'dev' or 'test'")
    chosen: list[Task] = []
    cells = itertools.groupby(legal_queries(), key=lambda task: (task.family, len(task.argument)))
    for _, cell in cells:
        members = [task for task in cell if split(task) == name]
        stride = max(1, -(-len(members) // per_cell))
        chosen += members[::stride]
    return chosen
