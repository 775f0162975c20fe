"""Text fit to be looked at: model text made safe for pages and terminals, numbers as people say
them, tables.

What a model writes may move the cursor, turn the reading direction or end a document. Characters
that are not seen are shown as what they are; nothing else changes.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str, limit: int | None = None) -> str:
    """The text with controls as their pictures (NUL: ␀), other unseen characters, bidi marks among
    them, as ``⟦U+202E⟧``, and at most ``limit`` characters of it, the rest counted."""
    kept = text if limit is None else text[:limit]
    shown = _UNSEEN.sub(_name, kept)
    more = len(text) - len(kept)
    return f"{shown} … ({more:,} characters more)" if more else shown


def _name(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟦U+{code:04X}⟧"


def as_utf8(text: str) -> str:
    """The text with its backslash escape (which is the same text in JSON) for each half of a
    surrogate pair, which has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def page_json(value: Any) -> str:
    """JSON that ends no script element, whatever it holds. ValueError for numbers not finite."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def duration(seconds: float) -> str:
    """As a person says it: ``45 s``, ``3 min 05 s``, ``2 h 07 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Columns for a terminal, each as wide as its longest cell; all but the first stand right."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in cells
    )


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page of docs, one line a row."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, *rows)]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]]) + "\n"


def folded(text: str, width: int, mark: str = "") -> list[str]:
    """The text's own lines, each in lines of at most ``width`` characters; ``mark`` before the
    first, as much space before the others."""
    lines: list[str] = []
    space = " " * len(mark)
    for line in text.split("\n"):
        indent = space if lines else mark
        lines += textwrap.wrap(
            line, width, initial_indent=indent, subsequent_indent=space, drop_whitespace=False
        ) or [indent]
    return lines
