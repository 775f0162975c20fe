"""What is known of free-text queries: nothing but their words."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lsp.contracts import QueryKinds, World
from lsp.paper.known_pairs import KNOWN_PAIRS
from lsp.settings.schema import settings
from lsp.tools.text import visible

if TYPE_CHECKING:
    from lsp.settings.config import Config

OPENINGS = 8  # first words that have a kind of their own
WORDS = (5, 10, 20, 40, 80)
OTHERS = "other openings"


@settings
class PaperWorld(World):
    """Free text: every query that came to its end is legal, and no answer is known."""

    name = "paper"

    def known_pairs(self) -> Sequence[tuple[str, str]]:
        return KNOWN_PAIRS

    def kinds(self, queries: Sequence[str]) -> Sequence[QueryKinds]:
        sizes = [f"{shorter + 1} to {limit} words" for shorter, limit in pairwise((0, *WORDS))]
        sizes.append(f"over {WORDS[-1]} words")

        def size(query: str) -> str:
            return sizes[bisect_left(WORDS, len(query.split()))]

        return (
            QueryKinds("number of words", sizes, size, ordered=True),
            frequent_openings(queries),
        )

    def problems(self, config: Config) -> Sequence[tuple[str, str, str]]:
        if config.model.name != "pocket":
            return ()
        reason = "the pocket model was pretrained on the pocket world's prompts alone"
        return (("model.name", reason, "choose another model, or world=pocket"),)


def frequent_openings(queries: Sequence[str]) -> QueryKinds:
    """Sorts by the first two words; those of few queries are one kind."""
    frequent = [text for text, _ in Counter(map(opening, queries)).most_common(OPENINGS)]

    def kind_of(query: str) -> str:
        return first if (first := opening(query)) in frequent else OTHERS

    return QueryKinds("first two words", [*frequent, OTHERS], kind_of)


def opening(text: str) -> str:
    """The first two words, never with an underscore first, which a legend would take for a private
    name."""
    first = " ".join(text.split(None, 2)[:2])[:24].lower()
    return visible(first).lstrip("_") or "no words"
