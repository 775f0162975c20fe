"""Hostile text is shown as what it is; long lines are folded, durations said."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.tools.text import as_utf8, duration, folded, markdown_table, text_table, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\x00b\x1b[2Jc\r", "a␀b␛[2Jc␍"),
        ("\u202egnp.exe\u202c", "⟦U+202E⟧gnp.exe⟦U+202C⟧"),
        ("\ud800\x7f\x85", "⟦U+D800⟧␡⟦U+0085⟧"),
        ("日本語 é 👍", "日本語 é 👍"),
        ("</script><b onclick=x>", "</script><b onclick=x>"),
    ],
)
def test_unseen_characters_are_named(text, shown):
    assert visible(text) == shown


def test_long_text_is_cut_and_the_rest_counted():
    assert visible("ab" * 600_000, 4) == "abab … (1,199,996 characters more)"
    assert visible("abcd", 4) == "abcd"


@given(st.text(st.characters()))
def test_nothing_that_acts_is_left(text):
    shown = visible(text)
    assert all(c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in shown)
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not any(unicodedata.bidirectional(c) in bidi for c in shown)


def test_lines_are_folded_with_a_mark_before_the_first():
    assert folded("one two\n\nthree", 7, "? ") == ["? one ", "  two", "  ", "  three"]
    assert folded("abcdef", 4) == ["abcd", "ef"] and folded("", 4) == [""]


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.4, "45 s"), (185, "3 min 05 s"), (7630, "2 h 07 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_tables_by_hand():
    rows = [["set", "rate"], ["koala", "1.5"], ["b", ""]]
    assert text_table(rows) == "set    rate\nkoala   1.5\nb"
    assert markdown_table(["", "rate"], rows[1:]) == (
        "|  | rate |\n|---|---|\n| koala | 1.5 |\n| b |  |\n"
    )


def test_half_a_surrogate_pair_is_written_as_its_escape():
    assert as_utf8("é \ud83c 🎲") == "é \\ud83c 🎲"
    as_utf8("\udfff").encode()
