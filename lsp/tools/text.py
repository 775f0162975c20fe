"""Model text made safe to look at, on a page or in a terminal.

What a model writes may move the cursor, turn the reading direction or end a document. Characters
that are not seen are shown as what they are; nothing else changes.
"""

from __future__ import annotations

import re

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
