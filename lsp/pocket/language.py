"""The pocket language: a query goes in, its task, its one right answer and scores come out.

A query is ``"<family> <argument>"``, e.g. ``"reverse abca"``; the argument is 1 to 8 letters
over ``abc``. There are 9,840 arguments and eight families, so 78,720 legal queries: every one
has exactly one right answer and a known place in a split. Difficulty grows with the length.

Pure Python, no torch: configuration checks and readers of traces import this too.
"""

import hashlib
import itertools
import math
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

ALPHABET = "abc"
MAX_LENGTH = 8
LENGTHS = range(1, MAX_LENGTH + 1)

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
    family, _, argument = query.partition(" ")
    if family not in FAMILIES or not 1 <= len(argument) <= MAX_LENGTH:
        return None
    return Task(family, argument) if set(argument) <= set(ALPHABET) else None


def legal_queries() -> Iterator[Task]:
    """Every legal query: by family, then length, then alphabet."""
    for family in FAMILIES:
        for length in LENGTHS:
            for letters in itertools.product(ALPHABET, repeat=length):
                yield Task(family, "".join(letters))


def split(task: Task) -> str:
    """``dev`` (15 %), ``test`` (35 %) or ``train``: a hash of the query decides, for ever."""
    fraction = int.from_bytes(hashlib.sha256(task.query.encode()).digest()[:4], "big") / 2**32
    return "dev" if fraction < 0.15 else "test" if fraction < 0.5 else "train"


def split_cells(name: str) -> Iterator[list[Task]]:
    """The queries of one split, those of each (family, length) together."""
    cells = itertools.groupby(legal_queries(), key=lambda task: (task.family, len(task.argument)))
    for _, cell in cells:
        yield [task for task in cell if split(task) == name]


def verify(query: str, answer: str, credit: str = "partial") -> float:
    """External reward R in [0, 1].

    ``credit="exact"``: 1 for the right answer, else 0. ``credit="partial"``: the share of
    positions at which the answer agrees with the right one, over the longer of the two.
    A query that is not legal has no right answer and scores 0, the lowest value there is.
    """
    if credit not in ("partial", "exact"):
        raise ValueError(f"credit={credit!r}: it must be 'partial' or 'exact'")
    if (task := parse(query)) is None:
        return 0.0
    right = task.right_answer
    if credit == "exact":
        return float(answer == right)
    return sum(a == b for a, b in zip(answer, right, strict=False)) / max(len(answer), len(right))


def form_rubric(query: str, answer: str) -> int:
    """Quality R_Q in 0..7: one point for each yes. It looks at form, never at correctness.

    The questions mirror the seven points of the paper's rubric (arXiv 2509.07414); the last four
    are asked of a legal query only.
    """
    task, capitals, digits = parse(query), ALPHABET.upper(), string.digits
    points = [
        # The task can be identified: the query's first word is a family.
        query.partition(" ")[0] in FAMILIES,
        # The query is legal: clear, specific, well formed.
        task is not None,
        # The answer can be read: not empty, only characters that answers are made of.
        answer != "" and set(answer) <= set(ALPHABET + capitals + digits),
    ]
    if task is not None:
        argument, right = task.argument, task.right_answer
        of_task = {"count": digits, "upper": capitals}
        of_argument = {"count": digits, "upper": argument.upper(), "swap": right}
        points += [
            # It uses the characters that the task asks for: capitals, letters, one digit.
            answer != "" and set(answer) <= set(of_task.get(task.family, ALPHABET)),
            # It is as long as the task asks for.
            len(answer) == len(right),
            # It is concise: no longer than the argument.
            0 < len(answer) <= len(argument),
            # It stays with the argument: its letters (swap: what they turn into; count: digits).
            answer != "" and set(answer) <= set(of_argument.get(task.family, argument)),
        ]
    return sum(points)


def evaluation_queries(name: str, per_cell: int) -> list[Task]:
    """The ``dev`` or ``test`` queries: at most ``per_cell`` of each (family, length), spread
    evenly over the alphabet. Short lengths have fewer (three letters give three arguments)."""
    if name not in ("dev", "test"):
        raise ValueError(f"split {name!r}: it must be 'dev' or 'test'")
    chosen: list[Task] = []
    for cell in split_cells(name):
        stride = max(1, math.ceil(len(cell) / per_cell))
        chosen += cell[::stride]
    return chosen
