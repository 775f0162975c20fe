"""The words of a report, and that none is left unexplained."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from lsp.pocket.evaluation import PocketEvaluation
from lsp.report.glossary import GLOSSARY, Terms, anchor
from lsp.report.lights import WATCHED
from lsp.report.page import render
from lsp.report.record import read_record
from lsp.tools.text import visible
from lsp.tracking.labels import LABELS

PLAIN = re.compile(r"<[^>]*>")


def linked(text):
    return re.findall(r'href="#([^"]*)"', Terms().mark(text))


def test_a_term_is_explained_the_first_time_that_a_section_uses_it():
    terms = Terms()
    assert terms.mark("R and R") == (
        '<a class="term" href="#term-R" aria-describedby="term-R">R</a> and R'
    )
    assert terms.mark("R again") == "R again"
    assert terms.section() == ""
    assert terms.mark("R again").startswith("<a ")
    assert terms.entries() == [("term-R", "R", GLOSSARY["R"])]


def test_terms_are_found_as_words_in_the_plural_and_at_a_beginning():
    assert linked("quality R_Q, V_Q and V") == ["term-R_Q", "term-V_Q", "term-V"]
    assert linked("Legal queries; a legal query") == ["term-legal-query"]
    assert linked("held out, or Held-out") == ["term-held-out"]
    assert linked("gradient norms") == ["term-gradient-norm"]
    assert linked("Rare KLM baseline steppe R2") == []


def test_markup_keeps_its_tags_links_and_code():
    markup = Markup('<p class="base">R <code>V</code> <a href="#x">KL</a> &amp;</p>')
    marked = Terms().mark(markup)
    assert marked.count("<a ") == 2 and '<p class="base">' in marked
    assert "<code>V</code>" in marked and marked.endswith("&amp;</p>")


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*GLOSSARY, "<R>&V"]))
def test_marking_changes_nothing_but_adds_links(text):
    """Other text is escaped and made visible, so that model text makes no element."""
    marked = Terms().mark(text)
    assert PLAIN.sub("", marked) == escape(visible(text))
    assert set(PLAIN.findall(marked)) <= {"</a>"} | {
        f'<a class="term" href="#{anchor(t)}" aria-describedby="{anchor(t)}">' for t in GLOSSARY
    }


def test_every_number_that_is_shown_has_a_word_that_is_explained():
    shown = [label.text for label in LABELS.values()]
    shown += [words for words in PocketEvaluation.labels.values() if not words.startswith("  ")]
    shown += [name for name in WATCHED if name not in LABELS]
    assert [words for words in shown if not linked(words)] == []


def test_a_page_explains_what_it_uses_and_a_glossary_has_nothing_else(run, edit_json):
    (run / "crossplay").mkdir()
    (run / "crossplay" / "crossplay.csv").write_text(
        "challenger,solver,queries,played,illegal_frac,reward_mean,reward_se,accuracy,accuracy_se\n"
        "base,base,8,6,0.25,0.625,0.1,,\n"
    )
    numbers = {f"{end}/{key}": 1.0 for key in PocketEvaluation.labels for end in ("base", "final")}
    edit_json(run / "summary.json", **numbers)
    measured = dict.fromkeys([*LABELS, "eval/pocket/accuracy", "eval/pocket/nash_conv"], 0.5)
    measured["eval/pocket/predicted/accuracy"] = 0.9
    lines = [json.dumps({"step": step} | measured) for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    page = render(read_record(run))
    used = set(re.findall(r'class="term" href="#([^"]*)"', page))
    entries = dict(re.findall(r'<dt>([^<]*)</dt><dd id="(term-[^"]*)">', page))
    assert set(entries.values()) == used
    for section in page.split("<section")[1:]:
        links = re.findall(r'class="term" href="#([^"]*)"', section)
        assert len(links) == len({*links})
    assert [term for term in GLOSSARY if term not in entries] == []


@pytest.mark.parametrize("term", GLOSSARY)
def test_a_sentence_is_one_and_explains_a_term_by_other_words(term):
    sentence = GLOSSARY[term]
    assert sentence[0].isupper() and sentence.endswith(".") and len(sentence) < 140
    assert anchor(term) not in linked(sentence)
    assert linked(term) == [anchor(term)]
