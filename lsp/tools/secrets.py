"""Text goes in, and comes out without secrets, before it is stored, sent or printed.

A secret is what has a known format (secret_formats.py), what stands in a place of secrets (a name,
a header, an address, a private key, the environment), and what is too random to be anything else.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lsp.tools.secret_formats import HEX, WORD, is_random, known

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
    finders = (known, _private_keys, _addresses, _headers, _named, _random)
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

_PLACEHOLDER = re.compile(
    r"[<{]|\$[{(]|\$(?:[A-Z_]+|[a-z_]+)$|%[(A-Za-z_{]|\*{3}|\.{3}|…|\[(?:\^|hidden|[A-Z]+\])"
    r"|x{3,}|X{3,}|your\b|(?i:none|null|true|false)$"
)
"""How what stands for a secret begins: <yours>, {name}, ${NAME}, $NAME, %(name)s, ***, ..., xxx."""


def _is_drawn(text: str) -> bool:
    """Whether, behind a name that says key, it can be one: random, or a long hexadecimal number."""
    if HEX.fullmatch(text):
        return len(text) >= 32 and text.count("-") in (0, 4)
    longest = max(re.findall("[a-zA-Z0-9]+", text), key=len, default="")
    least = 12 if re.search(r"\d", longest) else 20
    is_mixed = len(longest) >= least and len(longest) < 3 * len(WORD.findall(longest))
    return is_mixed or is_random(text)


# -- the environment

_SECRET_WORD = re.compile(
    r"[A-Z]*(?:KEY|TOKEN|SECRET|PASSW(?:OR)?D|PASSPHRASE|CREDENTIAL)S?|PASS|PAT|AUTH|DSN"
)
_PASSWORD_WORD = re.compile(r"[A-Z]*(?:SECRET|PASSW(?:OR)?D|PASSPHRASE)|PASS")
_PATH = re.compile(r"(?:~|\.{1,2})?/|[A-Za-z]:[\\/]")
_WRITTEN = re.compile(r"[a-zA-Z]{1,11}|[\d.,:+-]+")
"""A plain word, a switch, a number."""


def _of_environment(text: str, environment: Mapping[str, str]) -> Iterator[Span]:
    for name, value in environment.items():
        if value and value in text and _is_secret_variable(name, value):
            for found in re.finditer(re.escape(value), text):
                yield f"value of {name}", *found.span()


def _is_secret_variable(name: str, value: str) -> bool:
    """Whether a variable's name has a word for a secret and its value can be one. Where that word
    is the last, what is no path, number or short word is one; a password may be a short word. Where
    it is not (KEY_DIR, TOKEN_LIMIT), what is random is."""
    words = [word for word in re.split(r"[^A-Z]+", name.upper()) if word not in ("", "ID", "VALUE")]
    is_path = _PATH.match(value) is not None and not is_random(value)
    if len(value) < 8 or is_path or not any(map(_SECRET_WORD.fullmatch, words)):
        return False
    if not _SECRET_WORD.fullmatch(words[-1]):
        return _is_drawn(value)
    return not _WRITTEN.fullmatch(value) or _PASSWORD_WORD.fullmatch(words[-1]) is not None


# -- private keys

_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BETWEEN = r"(?:\\r|\\n|[\s\"'`+,#*>|;()\\-])"
_KEY_PART = re.compile(
    rf"{_BETWEEN}*(?:[A-Za-z0-9+/=]{{16,}}|[A-Za-z0-9+/=]{{1,15}}(?={_BETWEEN}+END )"
    r"|[A-Z][\w-]{2,20}: ?[^\n]{0,120}|=[A-Za-z0-9+/]{4}\b|END [A-Z0-9 ]{0,50}-----)"
)


def _private_keys(text: str) -> Iterator[Span]:
    """From BEGIN to END, or as far as lines of base64 go: in a diff, in quotes, in one line."""
    end = 0
    for begin in _BEGIN.finditer(text):
        if begin.start() < end:
            continue
        end = begin.end()
        while (part := _KEY_PART.match(text, end)) is not None:
            end = part.end()
            if part[0].endswith("-----"):
                break
        if re.search("[A-Za-z0-9+/=]{16}", text[begin.end() : end]):
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
    r"((?:bearer|basic|token|digest|apikey|key)\s{1,3})?([\w.~+/=:-]{6,})"
)
_BEARER = re.compile(r"(?i)\b(?:bearer|basic)\s{1,3}([\w.~+/=-]{12,})")
_USER_OPTION = re.compile(r"\s(?:-u|--user)[ =][\"']?(?=\S*[A-Za-z])([\w.@-]{1,64}:[^\s\"']{4,})")
_COOKIE = re.compile(r"(?i)\b(?:set-)?cookie[\"']?\s{0,3}:\s{0,3}[\"']?([\w.-]{1,64}=[^\s\"']{6,})")


def _headers(text: str) -> Iterator[Span]:
    for found in _AUTHORIZATION.finditer(text):
        is_name = re.fullmatch(r"[A-Za-z_][\w.]*", found[2]) is not None
        if not _PLACEHOLDER.match(found[2]) and (found[1] or not is_name):
            yield "authorization header", *found.span(2)
    for found in _BEARER.finditer(text):
        if re.search(r"\d", found[1]):
            yield "authorization header", *found.span(1)
    for found in _USER_OPTION.finditer(text):
        if not _PLACEHOLDER.match(found[1].partition(":")[2]):
            yield "user and password", *found.span(1)
    for found in _COOKIE.finditer(text):
        yield "cookie", *found.span(1)


# -- what has a name

_NAMED = re.compile(
    r"(?i)(?:(?P<password>passw(?:or)?ds?|passwd|passphrase|pwd)"
    r"|(?P<strong>secrets?|credentials?|token"
    r"|(?:api|access|secret|private|auth|account|encryption|master|signing|shared)[_-]?key)"
    r"|(?P<weak>key|auth|login|signature|bearer|[_-]pat))"
    r"(?:[_-]?(?:id|value|data|base64|b64|prod|dev|live|test|\d{1,2}))?(?![a-z])"
    r"(?P<joint> (?=[^\s=:-])|\\?[\"'`]?[\])]?[ \t]{0,8}"
    r"(?:=>|:=|=|:(?:[ \t]{0,2}[\w\[\], |.]{1,24}?=)?|,|>|\()[ \t]{0,8})"
    r"[bruf]{0,2}(?:\\?(?P<quote>[\"'`])(?P<quoted>[^\"'`\n\\]{6,8192})\\?[\"'`]"
    r"|(?P<plain>[^\s\"'`,;<>&]{6,8192}))"
)
_ONE_WORD = re.compile(r"[A-Za-z_.-]+")


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
    name, joint = found["strong"] or found["password"], found["joint"].strip()
    is_quoted, is_password = found["quoted"] is not None, found["password"] is not None
    if joint == "" and not _is_flag(text, found.start()):
        return False  # two words of a sentence
    is_called = joint.endswith((",", "(")) and not is_quoted
    if is_called or (joint in (",", ">") and found["joint"] != ">"):
        return False  # what is called by that name, a next word, a comparison
    if " " in value:
        return is_password and is_quoted and re.search(r"\d", value) is not None
    if not is_quoted and re.search(r"[(\[{]", value) and not (name or "").isupper():
        return False  # code
    if _is_drawn(value):
        return True
    if name is None or _PATH.match(value):
        return False
    if joint.endswith(",") and not (name.isupper() and re.search(r"\d", value)):
        return False  # the next of a list of words
    if value.isdigit() or _ONE_WORD.fullmatch(value):
        is_last = text[found.end() : found.end() + 1] in ("", "\n", "\r")
        is_yaml = found["joint"] == ": " and not value[0].isupper()  # a type, in Python
        is_set = is_quoted or joint == "" or (is_last and (found["joint"] == "=" or is_yaml))
        return is_password and is_set and len(value) >= 8
    is_name = not is_quoted and re.fullmatch(r"[A-Za-z_]\w*[._]\w[\w.]*", value) is not None
    return re.search(r"\d", value) is not None and len(value) >= 8 and not is_name


def _is_flag(text: str, end: int) -> bool:
    return re.search(r"(?:^|\s)--?[\w-]{0,40}$", text[max(0, end - 44) : end]) is not None


# -- what is random

_LONG = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
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
        for pieces in (_WHOLE, _STEPS, _WORDS):
            parts = [part for part in pieces.finditer(found[0]) if _is_key(part[0])]
            for part in parts:
                yield "random text", found.start() + part.start(), found.start() + part.end()
            if parts:
                break


_WHOLE, _STEPS, _WORDS = map(re.compile, (r"[^+-].{19,}", "[^/+-][^/]{19,}", "[^/_+-]{20,}"))
"""A text without a diff's mark, the steps of a path, and what stands between other separators."""


def _is_key(text: str) -> bool:
    """Whether a text is random as a whole: no path or name, whose parts are words and hashes, and
    in which separators are more frequent than one in ten characters."""
    steps = re.split("[/_+-]", text)
    is_name = any(re.fullmatch("[A-Z]?[a-z]{4,}|[0-9a-f]{20,}", step) for step in steps)
    return not is_name and len(steps) <= 2 + len(text) / 10 and is_random(text)
