"""Text goes in, and comes out without secrets, before it is stored or sent."""

import os
import re
from collections.abc import Mapping

HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_PATTERNS = (
    # user:password@ in URLs
    (re.compile(r"(\w+://)[^/\s:@]*:[^/\s@]*@"), rf"\1{HIDDEN}@"),
    # api_key=..., "token": "...", and PASSWORD: ... in any spelling
    (
        re.compile(
            r"(?i)([\w.-]*(?:api[_-]?key|access[_-]?key|token|secret|passw(?:or)?d|credential)s?"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\s*(?:null|none|true|false)\b)[^\s\"',;}\]]{6,}"
        ),
        rf"\1{HIDDEN}",
    ),
    # keys that give themselves away
    (
        re.compile(
            r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|AKIA\w{12,}"
            r"|xox[abpr]-[\w-]{10,}|wandb_v\d_\w{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
        ),
        HIDDEN,
    ),
    (re.compile(r"(?i)(authorization:\s*\w+\s+)\S+"), rf"\1{HIDDEN}"),
)


def scrub(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without secrets: values of environment variables whose names say key, token,
    secret, password or credential, and whatever looks like one by itself."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= 8 and value in text:
            text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
