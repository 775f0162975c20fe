"""The page of several runs in a real browser; ``visit`` wants a clean console and no fetches."""

import browser
import pytest

from lsp.report.comparison_page import write_comparison
from lsp.report.record import read_records
from lsp.tracking.reader import read_trace

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
OTHER = {"method": {"self_reward_weight": 0.0}}


@pytest.fixture
def page_of_two(scored_run, add_step):
    folders = [
        scored_run("a" * 60, [0.4, 0.5, 0.6], prompt=HOSTILE),
        scored_run("b", [0.5, 0.7, 0.9], prompt=HOSTILE, **OTHER),
    ]
    for folder, own in zip(folders, ("copy b", "copy c"), strict=True):
        rows = [
            dict(query_id=f"q{i}", query=text, answer=text * 30)
            for i, text in enumerate(("copy a", own, HOSTILE))
        ]
        add_step(folder, 4, rows)
    return folders, write_comparison(read_records(folders), folders[0].parent / "two.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_outcome_and_its_interval_are_on_the_first_screen(visit, page_of_two, width, scheme):
    page = visit(page_of_two[1], viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for shown in (".verdict", ".claims .picture svg"):
        box = page.locator(shown).first.bounding_box()
        assert box["width"] > 100 and box["y"] + box["height"] < 844
    assert browser.poor_contrast(page) == []
    assert page.evaluate("window.hacked") is None
    boards = [page.locator(f"#board-{side}").bounding_box() for side in ("left", "right")]
    beside = boards[0]["y"] == boards[1]["y"]
    assert beside == (width == 1280)


def test_both_games_move_to_the_same_step(visit, page_of_two):
    (one, other), path = page_of_two
    page = visit(path)
    slider = page.get_by_label("Step", exact=True)
    assert page.locator("#step-name").inner_text() == "4 of 4"
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "step 1"
    for side, folder in (("left", one), ("right", other)):
        asked = {row["query_id"]: row["query"] for row in read_trace(folder, [1])}
        shown = page.locator(f"#board-{side} summary .text").all_inner_texts()
        assert sorted(shown) == sorted(asked.values())
    page.get_by_label("Right", exact=True).select_option(label=f"A: {'a' * 60}")
    assert page.locator("#board-right h3").inner_text() == f"A: {'a' * 60}"


def test_a_query_that_both_asked_is_marked_and_hostile_text_stays_text(visit, page_of_two):
    page = visit(page_of_two[1])
    left = page.locator("#board-left details")
    marks = {
        card.locator(".text").first.inner_text(): "in B too" in card.locator(".facts").inner_text()
        for card in left.all()
    }
    assert marks == {"copy a": True, "copy b": False, HOSTILE: True}
    for card in left.all():
        card.locator("summary").click()
    page.locator("#board-left .answer").nth(2).wait_for()
    answers = page.locator("#board-left .answer .text").all_inner_texts()
    assert HOSTILE * 30 in answers
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_the_filter_narrows_both_sides(visit, page_of_two):
    page = visit(page_of_two[1])
    page.get_by_label("Filter", exact=True).fill("COPY B")
    assert page.get_by_role("status").inner_text() == "Queries shown: 1 of 3 and 0 of 3."


def test_everything_has_a_name(visit, page_of_two):
    page = visit(page_of_two[1])
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, figure")]
        .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute("aria-label"))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == []
