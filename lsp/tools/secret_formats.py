"""Text goes in, and comes out where keys of known vendors stand; and whether a text is random.

secret_formats.json has gitleaks' rules (MIT licence, secret_formats.LICENSE). A newer table comes
from gitleaks' own config/gitleaks.toml:
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
    *("curl-auth-header", "curl-auth-user", "nuget-config-password", "hashicorp-tf-password"),
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


_BEGINNINGS = (
    *("sk", "csk", "gsk", "rk", "hf", "key", "xai", "pplx", "nvapi", "fw", "r8", "jina", "pcsk"),
    *("tvly", "ntn", "secret", "lsv2", "wandb_v1", "wandb_v2", "figd", "fo1", "dckr_pat", "bkua"),
    *("sbp", "sb_secret", "GOCSPX", "KGAT", "whsec", "sq0atp", "sq0csp", "pat", "NRAK", "sntryu"),
    *("gh[pousr]", "github_pat", "glpat", "xox[abepsr]", "pypi", "npm", "tok", "token", "oauth"),
    *("apikey", "api_key"),
)
_OURS = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:{'|'.join(_BEGINNINGS)})[-_](?P<body>[\w-]{{16,}})"
    r"|dapi[0-9a-f]{32}|SG\.[\w-]{16,}|ya29\.[\w-]{20,}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"
    r"|[0-9a-f]{32}-us\d{1,2}\b|\d{8,10}:[\w-]{35}(?![\w-])|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}|LS0tLS1CRUdJTi[\w+/=]{40,})"
)
"""Formats that gitleaks 8.30 lacks, or holds to a length that may change; the last is a key's PEM
once more in base64."""
_LONG_WORD = re.compile(r"(?=[A-Za-z]*\d)[A-Za-z0-9]{16,}")

HEX = re.compile(r"(?:0x)?[0-9a-fA-F-]+")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


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
    for match in _OURS.finditer(text):
        body = match["body"]
        if body is None or is_random(body) or _LONG_WORD.search(body):
            yield "key of a known beginning", *match.span()


def is_random(text: str) -> bool:
    """Whether it reads as drawn, not as written: its words are too short, where a capital or a
    digit begins one (1.9 characters in drawn text, 4 in names such as DebertaV2ForMaskedLM).
    Hexadecimal numbers are none: a key and a hash look alike."""
    letters = re.sub(r"[^a-zA-Z0-9]", "", text)
    words = WORD.findall(letters)
    if len(letters) < 20 or not words or HEX.fullmatch(text):
        return False
    length = len(letters) / len(words)
    if re.search("[a-z]", text) and re.search("[A-Z]", text):
        return length < 3 and entropy(letters) >= 3.5 and re.search("[0-9]", text) is not None
    return letters == text and len(text) >= 24 and length <= 4.5 and entropy(text) >= 3.3


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
