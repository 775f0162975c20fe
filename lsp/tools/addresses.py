"""Addresses of servers go in; what keeps one from being used comes out, without its secrets.

A key belongs into an environment variable, which no file of a run keeps. An address is a setting:
it is stored, sent to W&B and shown, so nothing in it may open anything.
"""

import re
from urllib.parse import unquote, urlsplit

from lsp.tools.secrets import scrub

OPENAI_HOST = "api.openai.com"
_SECRET_NAME = re.compile(
    r"(?:key|token|secret|credentials?|passw(?:or)?d|signature|authorization)$"
    r"|(?:^|[^a-z])(?:auth|pass|pwd|sig|jwt|session(?:_?id)?|code|sas|bearer)$",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"[?&;/]([^=&;/?]*)=([^&;/]*)")
_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_ADDRESS = re.compile(r"(\w+://)\S*")


def address_problem(url: str) -> str:
    """Why a server cannot be addressed so, in words that show no part of what may be secret; empty
    where it can."""
    import httpx2

    try:
        parts = httpx2.URL(url)
        port = parts.port or 0
    except (httpx2.InvalidURL, ValueError, TypeError):
        return "is no address of a server"
    if parts.scheme not in ("http", "https") or not parts.host or not port < 2**16:
        return "is no address of a server"
    if re.search(r"[\s\\]", url):
        return "has a blank or a backslash in it"
    if parts.userinfo:
        return "names a user or a password before its host"
    if parts.fragment or "#" in url:
        return "has a part behind #, which is never sent"
    after_host = unquote(parts.raw_path.decode("ascii"))
    for name, value in _PARAMETER.findall(after_host):
        if value and (_SECRET_NAME.search(name) or _random(value)):
            return "holds what looks like a credential in a parameter"
    if _random(after_host) or scrub(url) != url:
        return "holds what looks like a credential"
    return ""


def _random(text: str) -> bool:
    """Whether a run of 16 or more letters and digits looks like no name: of 32 or more; of 20 with
    capitals, small letters and digits; of words shorter than 2.75, as hexadecimal and base64."""
    for run in _RUN.findall(text):
        mixed = all(re.search(kind, run) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
        short = len(run) / len(_WORD.findall(run)) < 2.75
        if short or len(run) >= (20 if mixed else 32):
            return True
    return False


def without_addresses(text: str) -> str:
    """The text with ``https://…`` for each address in it: for messages about what could not be
    read, whose secrets nobody can tell yet."""
    return _ADDRESS.sub(r"\1…", text)


def is_openai(url: str) -> bool:
    """Whether OpenAI's own server is addressed, in one region or all, over TLS."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}"))
