"""The report in a real browser: headless Chromium opens it from disk."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import browser
import pytest

from lsp.report.page import write_report
from lsp.report.record import read_record
from lsp.run.folder import update_run
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace

HOSTILE = (
    '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\u202eabc\x00'
)


@pytest.fixture(scope="session")
def hostile_run(small_run, tmp_path_factory):
    """A real run with a fourth step of hostile queries."""
    folder = Path(shutil.copytree(small_run[0], tmp_path_factory.mktemp("hostile") / "run"))
    like = read_trace(folder, [3])[0]
    rows = [
        like | {"step": 4, "query_id": f"q{i}", "query": text, "answer": text * 3,
                "answer_id": f"q{i}-a0", "challenger_advantage": -float(i),
                "query_finish_reason": "stop", "reward": 0.25, "quality": 6.5,
                "solver_reward": 0.5, "solver_advantage": -0.125, "answer_tokens": 9,
                "answer_finish_reason": "length", "query_value": 0.25}
        for i, text in enumerate([HOSTILE, "copy a", "copy a", "m" * 10**6])
    ]  # fmt: skip
    LocalTracker(folder).log(4, {}, rows)
    update_run(folder, command=HOSTILE)
    (folder / "alerts.jsonl").write_text(json.dumps({"step": 1, "text": HOSTILE}) + "\n")
    write_report(read_record(folder), folder / "report.html")
    return folder


def cards(page, board="#board"):
    return page.locator(f"{board} details")


def test_the_last_step_is_shown_first_and_the_slider_goes_through_all(visit, small_run):
    folder, _ = small_run
    page = visit(folder / "report.html")
    slider = page.get_by_label("Step", exact=True)
    assert page.locator("#board h3").inner_text() == "Step 3"
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("#board h3").inner_text() == "Step 1, before any update"
    assert slider.get_attribute("aria-valuetext") == "step 1"
    page.keyboard.press("ArrowRight")
    assert page.locator("#board h3").inner_text() == "Step 2"
    asked = {row["query_id"]: row["query"] for row in read_trace(folder, [2])}
    shown = cards(page).locator("summary .text").all_inner_texts()
    assert sorted(shown) == sorted(asked.values())


def test_a_card_opens_its_answers_by_the_keyboard(visit, hostile_run):
    page = visit(hostile_run / "report.html")
    card = cards(page).nth(1)
    assert card.locator(".answers").count() == 0
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    answer = card.locator(".answer").first
    answer.wait_for()
    said = answer.inner_text()
    for part in ("0.250", "6.500", "-0.125", "9 tokens", "cut at the limit"):
        assert part in said
    fill, zero = answer.locator(".bar i"), answer.locator(".bar b")
    filled, line = fill.nth(2).bounding_box(), zero.nth(2).bounding_box()
    # The Solver's advantage, below zero, ends at its line; R, of which none is, begins at the edge.
    assert filled["width"] > 1 and filled["x"] + filled["width"] == pytest.approx(
        line["x"] + 1, abs=1
    )
    assert fill.first.bounding_box()["x"] == answer.locator(".bar").first.bounding_box()["x"]
    facts = card.locator(".facts").first.inner_text()
    assert "legal" in facts and "not legal" not in facts and "× 2 in this step" in facts


def test_hostile_text_stays_text(visit, hostile_run):
    page = visit(hostile_run / "report.html")
    for i in range(cards(page).count()):
        cards(page).nth(i).locator("summary").click()
    shown = cards(page).first.locator("summary .text").inner_text()
    assert shown == HOSTILE.replace("\u202e", "⟦U+202E⟧").replace("\x00", "␀")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#board img, #board script, main script").count() == 0
    assert "characters more)" in cards(page).last.inner_text()
    assert page.locator("p.alarm").count() == 1 and "onerror" in page.locator("pre").inner_text()


def test_the_filter_narrows_and_says_so(visit, hostile_run):
    page = visit(hostile_run / "report.html")
    page.get_by_label("Filter", exact=True).fill("COPY A")
    assert cards(page).count() == 2
    assert page.get_by_role("status").inner_text() == "2 of 4 queries shown."
    page.get_by_label("Filter", exact=True).fill("")
    assert cards(page).count() == 4


def test_beside_the_first_step(visit, small_run):
    page = visit(small_run[0] / "report.html", viewport={"width": 1200, "height": 800})
    assert page.locator("#board-first").is_hidden()
    page.get_by_label("beside the first step").check()
    now, first = (page.locator(board).bounding_box() for board in ("#board", "#board-first"))
    assert first["x"] > now["x"] and first["y"] == now["y"]
    assert page.locator("#board-first h3").inner_text() == "Step 1, before any update"


WIDTHS = (320, 390, 768, 1280, 1600)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_any_width(visit, hostile_run, width):
    """The page does not scroll sideways, what is wider than its box scrolls in it, and of numbers
    nothing is; what is drawn is no smaller than can be read."""
    page = visit(hostile_run / "report.html", viewport={"width": width, "height": 800})
    for i in range(2):
        cards(page).nth(i).locator("summary").click()
    page.get_by_label("beside the first step").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate("""() => [...document.querySelectorAll("main *")].filter((e) => {
        const box = e.getBoundingClientRect();
        return box.width && (box.right > innerWidth + 1 || box.left < -1)
            && !e.closest(".wide, svg, pre, .answer .text");
    }).map((e) => e.outerHTML.slice(0, 90))""")
        == []
    )
    numbers = page.get_by_label("Numbers of").evaluate("(e) => [e.scrollWidth, e.clientWidth]")
    assert numbers[0] <= numbers[1] + 1
    smallest = page.evaluate("""() => Math.min(...[...document.querySelectorAll("figure text")]
        .map((e) => e.getBoundingClientRect().height))""")
    assert smallest >= 9


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_have_the_room_of_their_card(visit, small_run, width):
    page = visit(small_run[0] / "report.html", viewport={"width": width, "height": 800})
    card = cards(page).first
    card.locator("summary").click()
    room = card.bounding_box()["width"]
    for bars in card.locator(".bars").all():
        column = bars.bounding_box()["width"]
        assert column > 0.45 * room
        for bar in bars.locator(".bar").all():
            assert bar.bounding_box()["width"] > (0.6 if width > 320 else 0.48) * column
    scale = page.evaluate("scale.reward")  # all of it is used, and zero is in it
    assert scale[0] == 0 and 0 < scale[1] <= 1


def test_the_river_and_the_examples_are_on_the_first_screen(visit, small_run):
    page = visit(small_run[0] / "report.html", viewport={"width": 1280, "height": 800})
    for part in (".verdict", ".tiles", ".examples", ".overview .river", ".lights li >> nth=0"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 800, part


def test_a_term_is_explained_by_pointer_and_by_keyboard(visit, small_run):
    page = visit(small_run[0] / "report.html", viewport={"width": 320, "height": 640})
    tip, terms = page.get_by_role("tooltip"), page.locator(".term")
    assert tip.count() == 0
    term = terms.filter(has_text="win rate").first
    term.hover()
    assert "a tie counted as half" in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 320
    tip.hover()  # it can be pointed at
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert tip.count() == 0
    page.keyboard.press("Home")
    page.mouse.move(0, 0)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "term":
            break
    name = page.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert tip.inner_text() == page.locator(f"#{name}").inner_text()
    page.keyboard.press("Enter")  # without a script, too, a term leads to its sentence
    assert page.url.endswith(f"#{name}")
    page.locator("#filter").focus()
    assert tip.count() == 0


def test_a_finger_gets_the_sentence_and_stays(visit, small_run):
    page = visit(
        small_run[0] / "report.html",
        viewport={"width": 390, "height": 800},
        has_touch=True,
        is_mobile=True,
    )
    page.locator(".verdict .term").first.tap()
    assert page.get_by_role("tooltip").is_visible() and "#" not in page.url


def test_all_of_the_page_is_reached_by_the_keyboard(visit, small_run):
    """In the order of the page, each with a line around it, and out again at the end."""
    page = visit(small_run[0] / "report.html", viewport={"width": 390, "height": 800})
    wanted = page.locator("a, input, summary, [tabindex='0']").count()
    seen, places = 0, []
    while seen <= wanted:
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
            const e = document.activeElement, all = [...document.querySelectorAll("*")];
            return [e.tagName, getComputedStyle(e).outlineWidth, all.indexOf(e)];
        }""")
        if found[0] == "BODY":
            break
        assert found[1] == "3px", found
        places.append(found[2])
        seen += 1
    assert seen == wanted and places == sorted(places)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_contrast(visit, hostile_run, scheme, width):
    """WCAG 2: text 4.5 to 1 against its ground, that of a tip and of a field's hint too."""
    page = visit(
        hostile_run / "report.html",
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
    )
    for i in range(2):
        cards(page).nth(i).locator("summary").click()
    page.get_by_label("beside the first step").check()
    page.locator(".verdict .term").first.focus()
    assert page.get_by_role("tooltip").is_visible()
    assert browser.poor_contrast(page) == []


def test_everything_has_a_name_and_focus_is_seen(visit, small_run):
    page = visit(small_run[0] / "report.html")
    unnamed = page.evaluate("""() =>
        [...document.querySelectorAll("input, [role=img], [role=region]")]
        .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute("aria-label"))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == [] and page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    levels = page.evaluate("""() => [...document.querySelectorAll("h1, h2, h3")]
        .map((e) => Number(e.tagName[1]))""")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
