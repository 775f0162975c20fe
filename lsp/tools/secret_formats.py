"""Text goes in, and comes out where keys of known vendors stand: by gitleaks' rules.

secret_formats.json has them (MIT licence, secret_formats.LICENSE). Its newer self comes from
gitleaks' own config/gitleaks.toml:
``python -m lsp.tools.secret_formats gitleaks.toml > lsp/tools/secret_formats.json``
"""

import json
import math
import re
import string
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("secret_formats.json")
OUR_OWN = {
    *("generic-api-key", "private-key", "pkcs12-file", "kubernetes-secret-yaml"),
    *("curl-auth-header", "curl-auth-user", "nuget-config-password"),
}
"""Rules for secrets of no known format, and for files: secrets.py finds what they are for."""
BEFORE, BEHIND = 128, 4096
"""Characters around a keyword in which its rule looks."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_NAME_BEFORE = r"[\w.-]{0,50}?"
_END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""
_POSIX = {"[:alnum:]": "a-zA-Z0-9", r"\z": r"\Z"}


@dataclass(frozen=True)
class Rule:
    """A format: what its keys match, the least entropy of one in bits a character, and words of
    which each text with such a key has one, in lower case."""

    name: str
    pattern: str
    entropy: float
    keywords: tuple[str, ...]


def known(text: str) -> Iterator[tuple[str, int, int]]:
    """(rule, start, end) of each key of a known format."""
    lowered = text.translate(_LOWER)
    places = {word: list(_positions(lowered, word)) for word in _keywords()}
    for rule in _rules():
        near = sorted({place for word in rule.keywords for place in places[word]})
        for start, end in _windows(near):
            for match in _compiled(rule.pattern).finditer(text, start, end):
                group = next((i for i, found in enumerate(match.groups(), 1) if found), 0)
                if entropy(match[group]) >= rule.entropy:
                    yield rule.name, *match.span(group)


def entropy(text: str) -> float:
    """Shannon's, of the text's characters, in bits."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _positions(text: str, word: str) -> Iterator[int]:
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + 1)


def _windows(places: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches around places, those that meet as one."""
    start = end = None
    for place in places:
        if end is None or place - BEFORE > end:
            if end is not None:
                yield start, end
            start = max(0, place - BEFORE)
        end = place + BEHIND
    if end is not None:
        yield start, end


@cache
def _rules() -> tuple[Rule, ...]:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(Rule(**{**rule, "keywords": tuple(rule["keywords"])}) for rule in table["rules"])


@cache
def _keywords() -> frozenset[str]:
    return frozenset(word for rule in _rules() for word in rule.keywords)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII | re.MULTILINE)


def table_of(toml: str) -> dict[str, Any]:
    """gitleaks' rules -> what ``TABLE`` holds. A name in front of a key is no part of the match,
    and a key ends where its letters end: gitleaks looks in files, and this in command lines,
    addresses and messages too."""
    config = tomllib.loads(toml)
    rules = [
        {
            "name": rule["id"],
            "pattern": _in_python(rule["regex"].removeprefix("(?i)"), "(?i)" in rule["regex"][:4]),
            "entropy": rule.get("entropy", 0),
            "keywords": [word.translate(_LOWER) for word in rule["keywords"]],
        }
        for rule in config["rules"]
        if rule["id"] not in OUR_OWN
    ]
    return {"source": "https://github.com/gitleaks/gitleaks config/gitleaks.toml", "rules": rules}


def _in_python(pattern: str, ignores_case: bool) -> str:
    """A pattern of Go's as one of Python's, in which ``(?i)`` in the middle needs its group."""
    for old, new in {_NAME_BEFORE: "", _END: "(?![a-zA-Z0-9])", **_POSIX}.items():
        pattern = pattern.replace(old, new)
    parts, opened = [], [False]
    for token in re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?i\)|\(|\)|\||[^\\\[()|]", pattern):
        if token == "(?i)":
            opened[-1], token = True, "(?i:"
        elif token == "(":
            opened.append(False)
        elif token == ")":
            token = "))" if opened.pop() else ")"
        elif token == "|" and opened[-1]:
            token = ")|(?i:"
        parts.append(token)
    closing = ")" if opened.pop() else ""
    return ("(?i)" if ignores_case else "") + "".join(parts) + closing


if __name__ == "__main__":
    found = table_of(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(found, indent=1, ensure_ascii=False))
