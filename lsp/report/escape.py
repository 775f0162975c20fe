"""JSON inside a page."""

from __future__ import annotations

import json
from typing import Any


def page_json(value: Any) -> str:
    """JSON that ends no script element, whatever the texts hold. Raises ValueError for a number
    that is not finite."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
