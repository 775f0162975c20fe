"""Text goes in, and comes out without secrets, before it is stored, sent or printed.

A secret is what has a known format (secret_formats.py), what stands in a place of secrets (a name,
a header, an address, a private key, the environment), and what is too random to be anything else.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lsp.tools.secret_formats import entropy, known

HIDDEN = "[hidden]"

Span = tuple[str, int, int]


@dataclass(frozen=True)
class Finding:
    """A secret in a text: of what kind, and where. The secret itself is not in it."""

    kind: str
    start: int
    end: int


def findings(text: str, environment: Mapping[str, str] = os.environ) -> tuple[Finding, ...]:
    """What in the text is a secret, in its order; findings that meet are one, of the first kind."""
    found: list[Finding] = []
    finders = (known, _private_keys, _addresses, _headers, _named, _begun, _random)
    spans = [*_of_environment(text, environment), *(s for find in finders for s in find(text))]
    for kind, start, end in sorted(spans, key=lambda span: (span[1], -span[2])):
        if found and start < found[-1].end:
            last = found.pop()
            found.append(Finding(last.kind, last.start, max(end, last.end)))
        else:
            found.append(Finding(kind, start, end))
    return tuple(found)


def scrub(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with ``HIDDEN`` in place of each of its ``findings``."""
    return blank(text, findings(text, environment))


def blank(text: str, found: tuple[Finding, ...]) -> str:
    parts, position = [], 0
    for finding in found:
        parts += text[position : finding.start], HIDDEN
        position = finding.end
    return "".join((*parts, text[position:]))


# -- what is a secret's value

_PLACEHOLDER = re.compile(r"[<{$%*.…@~^\\|]|\[|x{3,}|X{3,}|your\b|(?i:none|null|true|false)$")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F-]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _is_random(text: str) -> bool:
    """Whether it reads as drawn, not as written: its words are too short, where a capital or a
    digit begins one (1.9 characters in drawn text, 4 in names such as DebertaV2ForMaskedLM).
    Hexadecimal numbers are none: a key and a hash look alike."""
    letters = re.sub(r"[^a-zA-Z0-9]", "", text)
    words = _WORD.findall(letters)
    if len(letters) < 20 or not words or _HEX.fullmatch(text):
        return False
    length = len(letters) / len(words)
    if re.search("[a-z]", text) and re.search("[A-Z]", text):
        return length <= 3 and entropy(letters) >= 3.5 and re.search("[0-9]", text) is not None
    return letters == text and len(text) >= 24 and length <= 4.5 and entropy(text) >= 3.3


def _is_drawn(text: str) -> bool:
    """Whether, behind a name that says key, it can be one: random, or a long hexadecimal number."""
    if _HEX.fullmatch(text):
        return len(text) >= 32 and text.count("-") in (0, 4)
    is_mixed = text.isalnum() and len(text) >= 12 and len(_WORD.findall(text)) >= 5
    return is_mixed or _is_random(text)


# -- the environment

_SECRET_WORDS = {
    *("KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS"),
    *("CREDENTIAL", "CREDENTIALS", "AUTH", "PAT", "DSN", "WEBHOOK"),
}
_PATH = re.compile(r"(?:~|\.{1,2})?/|[A-Za-z]:[\\/]")


def _of_environment(text: str, environment: Mapping[str, str]) -> Iterator[Span]:
    for name, value in environment.items():
        if value in text and _is_secret_variable(name, value):
            for found in re.finditer(re.escape(value), text):
                yield f"value of {name}", *found.span()


def _is_secret_variable(name: str, value: str) -> bool:
    """Whether a variable's name has a word for a secret and its value can be one: no path, number,
    switch or plain word. A password may be a word."""
    words = set(re.split(r"[^A-Z]+", name.upper()))
    if len(value) < 8 or not words & _SECRET_WORDS or value.isspace():
        return False
    if _PATH.match(value) and not _is_random(value.strip("/")):
        return False
    if words & {"PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "SECRET"}:
        return not words & {"DIR", "PATH", "FILE", "HOME"}
    is_written = re.fullmatch(r"[a-z]+(?:[-_. ,/][a-z]+)*|[\d.,:+-]+", value.lower())
    return not is_written


# -- private keys

_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINE = re.compile(
    r"(?:\\r|\\n|[\s\"'`+,#*>|;()\\-])*"
    r"(?:[A-Za-z0-9+/=]{4,}|[A-Z][\w-]{2,20}: ?[^\n]{0,120}|-----END [A-Z0-9 ]{0,50}-----)"
)


def _private_keys(text: str) -> Iterator[Span]:
    """From BEGIN to END, or as far as lines of base64 go: in a diff, in quotes, in one line."""
    for begin in _BEGIN.finditer(text):
        end = begin.end()
        while (line := _KEY_LINE.match(text, end)) is not None:
            end = line.end()
            if "-----END" in line[0]:
                break
        if end > begin.end() + 16:
            yield "private key", begin.start(), end


# -- addresses

_USER = re.compile(r"(?<=://)([^\s/?#\"'<>`]{1,300})@(?=[\w\[{$.-])")
_SCHEME = re.compile(r"https?://$")
_PARAMETER = re.compile(
    r"(?i)[?&;][\w.-]{0,32}?(?:key|key-?id|token|secret|sig|signature|passw(?:or)?d|pwd|auth"
    r"|credential|session)=([^\s&\"'<>`#;,)\]]{4,})"
)
_WEBHOOK = re.compile(
    r"(?i)://(?:hooks\.[\w.-]{1,100}/|[\w.:-]{1,100}/(?:[\w.~%-]{1,60}/){0,6}?"
    r"(?:[\w-]{0,20}hooks?/|bot(?=\d+:)))([^\s\"'<>`?)\]]{8,})"
)


def _addresses(text: str) -> Iterator[Span]:
    """Credentials in an address: before its host, in its query, and where its path is the key."""
    for found in _USER.finditer(text):
        user, colon, password = found[1].partition(":")
        is_web = _SCHEME.search(text, max(0, found.start() - 8), found.start()) is not None
        secret = password if colon else user
        if not _PLACEHOLDER.match(secret) and (colon or (is_web and user != "git")):
            yield "credentials in an address", *found.span(1)
    for found in _PARAMETER.finditer(text):
        if not _PLACEHOLDER.match(found[1]):
            yield "key in an address", *found.span(1)
    for found in _WEBHOOK.finditer(text):
        if re.search(r"\d", found[1]) and not _PLACEHOLDER.match(found[1]):
            yield "webhook", *found.span(1)


# -- headers

_AUTHORIZATION = re.compile(
    r"(?i)\bauthorization[\"'\]\\]{0,3}\s{0,3}[:=,]\s{0,3}[bfr]?\\?[\"']?"
    r"(?:(?:bearer|basic|token|digest|apikey|key)\s{1,3})?([^\s\"'`,;)}<>]{6,})"
)
_BEARER = re.compile(r"(?i)\b(?:bearer|basic)\s{1,3}([\w.~+/=-]{12,})")
_COOKIE = re.compile(r"(?i)\b(?:set-)?cookie[\"']?\s{0,3}:\s{0,3}[\"']?([\w.-]{1,64}=[^\s\"']{6,})")


def _headers(text: str) -> Iterator[Span]:
    for found in _AUTHORIZATION.finditer(text):
        if not _PLACEHOLDER.match(found[1]) and not found[1].isidentifier():
            yield "authorization header", *found.span(1)
    for found in _BEARER.finditer(text):
        if re.search(r"\d", found[1]):
            yield "authorization header", *found.span(1)
    for found in _COOKIE.finditer(text):
        yield "cookie", *found.span(1)


# -- what has a name

_NAMED = re.compile(
    r"(?i)(?:(?P<password>passw(?:or)?ds?|passwd|passphrase|pwd)"
    r"|(?P<strong>secrets?|credentials?|token"
    r"|(?:api|access|secret|private|auth|account|encryption|master|signing|shared)[_-]?key)"
    r"|(?P<weak>key|auth|login|signature|bearer|[_-]pat))"
    r"(?:[_-]?(?:id|value|base64|b64|prod|dev|live|test|\d{1,2}))?(?![a-z])"
    r"(?P<joint>\s(?=[^\s=:-])|\\?[\"'`]?[\])]?\s{0,8}(?:=>|:=|=|:(?:\s{0,2}[\w\[\], |.]{1,24}?=)?"
    r"|,|>|\()\s{0,8})"
    r"[bruf]{0,2}(?:\\?(?P<quote>[\"'`])(?P<quoted>[^\"'`\n\\]{6,512})\\?[\"'`]"
    r"|(?P<plain>[^\s\"'`,;()}\]<>&]{6,512}))"
)
_ONE_WORD = re.compile(r"[A-Za-z_.]+")


def _named(text: str) -> Iterator[Span]:
    """Values that a name, a flag or a call says are secret: a password may be a word, a token or
    secret has a digit, and behind a mere key stands a number of its length."""
    for found in _NAMED.finditer(text):
        value = found["quoted"] or found["plain"]
        if not _PLACEHOLDER.match(value) and _is_value(text, found, value):
            name = found["password"] or found["strong"] or found["weak"]
            yield (
                f"value named {name.lower()}",
                *found.span("quoted" if found["quoted"] else "plain"),
            )


def _is_value(text: str, found: re.Match[str], value: str) -> bool:
    joint, is_quoted = found["joint"].strip(), found["quoted"] is not None
    quoted_name = found["joint"][:1] in "\"'`\\"
    if joint == "" and not _is_flag(text, found.start()):
        return False  # two words of a sentence
    if joint.endswith(("(", ",")) and not (is_quoted and (quoted_name or joint == "(")):
        return False
    if joint == ">" and is_quoted:
        return False
    if " " in value:
        return found["password"] is not None and is_quoted and bool(re.search(r"\d", value))
    if _is_drawn(value):
        return True
    if found["weak"] is not None or _PATH.match(value):
        return False
    if value.isdigit() or _ONE_WORD.fullmatch(value):
        is_line = joint in ("=", ":") and text[found.end() : found.end() + 1] in ("", "\n", "\r")
        is_set = is_quoted or joint == "" or (is_line and found["joint"] in ("=", ": "))
        return found["password"] is not None and is_set and len(value) >= 8
    is_name = re.fullmatch(r"[A-Za-z_][\w.]*", value) is not None and "_" in value
    return bool(re.search(r"\d", value)) and len(value) >= 8 and not is_name and "[" not in value


def _is_flag(text: str, end: int) -> bool:
    return re.search(r"(?:^|\s)--?[\w-]{0,40}$", text[max(0, end - 44) : end]) is not None


# -- what begins as keys do

_BEGINNINGS = (
    *("sk", "csk", "gsk", "rk", "hf", "key", "xai", "pplx", "nvapi", "fw", "r8", "jina", "pcsk"),
    *("tvly", "ntn", "secret", "lsv2", "wandb_v1", "wandb_v2", "figd", "fo1", "dckr_pat", "bkua"),
    *(
        "sbp",
        "sb_secret",
        "GOCSPX",
        "KGAT",
        "whsec",
        "sq0atp",
        "sq0csp",
        "ghu",
        "xoxe",
        "pat",
        "NRAK",
    ),
    *("pypi", "sntryu", "napi", "vercel", "tok", "token", "apikey", "api_key", "ak", "oauth"),
)
"""Of vendors whose formats gitleaks 8.30 lacks or holds to a length that changed."""
_BEGUN = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:{'|'.join(_BEGINNINGS)})[-_](?P<body>[\w-]{{16,}})"
    r"|dapi[0-9a-f]{32}|SG\.[\w-]{16,}|ya29\.[\w-]{20,}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"
    r"|[0-9a-f]{32}-us\d{1,2}\b|\d{8,10}:[\w-]{35}(?![\w-])|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
)


def _begun(text: str) -> Iterator[Span]:
    for found in _BEGUN.finditer(text):
        body = found["body"]
        if body is None or _is_random(body) or re.search(r"(?=[A-Za-z]*\d)[A-Za-z0-9]{16,}", body):
            yield "key of a known beginning", *found.span()


# -- what is random

_LONG = re.compile(r"[A-Za-z0-9+/_=-]{20,}")
_PUBLIC = re.compile(
    r"(?i)(?:\bsha\d*|digest|integrity|checksum|hash|md5|etag|\bh1|base64|\bssh-[\w-]+)"
    r"[\"']?[\s:=,-]{1,4}[\"']?$"
)
_PICTURE = re.compile(r"sha\d{1,3}[-_]|iVBORw0KGgo|/9j/|R0lGOD|UEsDB|H4sI|k05VTVBZ|AAAA[BCE]3Nza")
LONGEST_KEY = 200
"""A longer random text without a known format is data: a picture, an array."""


def _random(text: str) -> Iterator[Span]:
    for found in _LONG.finditer(text):
        if len(found[0]) > LONGEST_KEY or _PICTURE.match(found[0].lstrip("+-")):
            continue
        if _PUBLIC.search(text[max(0, found.start() - 24) : found.start()]):
            continue
        for part in _parts(found[0]):
            start = found.start() + part.start()
            if _is_random(part[0]):
                yield "random text", start, start + len(part[0])


def _parts(token: str) -> list[re.Match[str]]:
    """The token without a diff's mark, where that is random and no path; else its parts."""
    whole = re.search(r"[^+=-].*", token)
    if whole is None:
        return []
    steps = whole[0].split("/")
    is_path = any(re.fullmatch("[a-z]{5,}|[0-9a-f]{20,}", step) for step in steps[1:] + steps[:-1])
    if not is_path and _is_random(whole[0]):
        return [whole]
    for separators in ("/=", "/=_+-"):
        parts = list(re.finditer(f"[^{separators}]{{20,}}", token))
        if any(_is_random(part[0]) for part in parts):
            return parts
    return []
