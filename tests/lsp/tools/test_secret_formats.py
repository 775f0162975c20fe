"""The table of known formats: made from gitleaks' rules, and used where their words stand."""

import json
import random
import re

import pytest
from planted import FORMATS, draw

from lsp.tools.secret_formats import TABLE, is_random, known, table_of

TOML = r"""
title = "gitleaks config"
[[rules]]
id = "named"
description = "not kept"
regex = '''(?i)[\w.-]{0,50}?(?:acme)=([a-z0-9]{32})(?:[\x60'"\s;]|\\[nr]|$)'''
entropy = 2
keywords = ["ACME"]
[[rules]]
id = "middle"
description = "not kept"
regex = '''\b(x-(?i)[a-f()\]]{8}|y\()z[[:alnum:]]\z'''
keywords = ["x-", "y"]
[[rules]]
id = "generic-api-key"
description = "ours"
regex = '''key'''
keywords = ["key"]
"""


def test_a_rule_of_gitleaks_becomes_a_pattern_of_python():
    """The name in front is left out, an end is the end of letters and digits, and ``(?i)`` in the
    middle holds to the end of its group, over ``|`` too."""
    named, middle = table_of(TOML)["rules"]
    assert named == {
        "name": "named",
        "pattern": r"(?i)(?:acme)=([a-z0-9]{32})(?![a-zA-Z0-9])",
        "entropy": 2,
        "keywords": ["acme"],
    }
    assert middle["pattern"] == r"\b(x-(?i:[a-f()\]]{8})|(?i:y\())z[a-zA-Z0-9]\Z"
    pattern = re.compile(middle["pattern"])
    assert pattern.search("x-ABCDEFabz1") and pattern.search("Y(z1")
    assert not pattern.search("X-ABCDEFabz1")


def test_the_shipped_table_is_whole_and_has_its_licence():
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    assert len(table["rules"]) > 200
    for rule in table["rules"]:
        re.compile(rule["pattern"])
        assert rule["keywords"] == [word.lower() for word in rule["keywords"]] != []
    licence = TABLE.with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence and table["source"].split()[0] in licence


def test_keys_are_found_where_they_stand_however_far_apart():
    generator = random.Random(1)
    first, second = (draw(FORMATS["GitHub"], generator) for _ in range(2))
    text = f"{'x ' * 9_999}{first}{' y' * 9_999} {second}"
    places = [(start, end) for name, start, end in known(text) if name == "github-pat"]
    assert [text[start:end] for start, end in places] == [first, second]


@pytest.mark.parametrize(
    "text",
    [
        "DebertaV2ForSequenceClassification",
        "Qwen2_5_VLForConditionalGeneration",
        "PeftModelForSeq2SeqLM",
        "manylinux_2_28_x86_64_cp311",
        "0123456789abcdef0123456789abcdef01234567",
        "1b62a2732e690afae6f0c31fdcf2ae49caa27821",
        "test_the_second_32_bit_half_is_never_read_twice",
        "12345678901234567890",
        "tooShort1A",
    ],
)
def test_what_was_written_is_not_random(text):
    assert not is_random(text)


@pytest.mark.parametrize("template", ["{alnum:24}", "{base64:40}", "{url:43}", "{lower:40}"])
def test_what_was_drawn_is_random(template):
    generator = random.Random(2)
    missed = [
        text for text in (draw(template, generator) for _ in range(200)) if not is_random(text)
    ]
    assert len(missed) <= 10, missed
