"""The report in a real browser: headless Chromium opens it from disk."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from lsp.report.page import write_report
from lsp.report.record import read_record, read_records
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
    write_report([read_record(folder)], folder / "report.html")
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
    fill = answer.locator(".bar i").nth(2)  # the Solver's advantage, below zero: left of the middle
    bar, filled = answer.locator(".bar").nth(2).bounding_box(), fill.bounding_box()
    middle = bar["x"] + bar["width"] / 2
    assert filled["width"] > 1 and filled["x"] + filled["width"] == pytest.approx(middle, abs=1)
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


def test_another_run_can_be_chosen(visit, small_run, hostile_run, tmp_path):
    update_run(hostile_run, id="hostile")
    path = write_report(read_records([small_run[0], hostile_run]), tmp_path / "two.html")
    page = visit(path)
    page.get_by_label("Run", exact=True).select_option("hostile")
    assert page.locator("#board h3").inner_text() == "Step 4"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_contrast_and_width(visit, hostile_run, scheme, width):
    """WCAG 2: text 4.5 to 1 against its ground; no sideways scrolling of the page at 320 px."""
    page = visit(
        hostile_run / "report.html",
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
    )
    for i in range(2):
        cards(page).nth(i).locator("summary").click()
    page.get_by_label("beside the first step").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    poor = page.evaluate("""() => {
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (c) => c.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => {
            for (; e; e = e.parentElement) {
                const c = rgb(getComputedStyle(e).backgroundColor);
                if (c.length === 3 || c[3] > 0) return c;
            }
            return [255, 255, 255];
        };
        const found = [];
        for (const e of document.querySelectorAll("main *, header *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !e.getClientRects().length) continue;
            const style = getComputedStyle(e);
            const ink = rgb(e.closest("svg") ? style.fill : style.color);
            const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) found.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio}`);
        }
        return found;
    }""")
    assert poor == []


def test_everything_has_a_name_and_focus_is_seen(visit, small_run):
    page = visit(small_run[0] / "report.html")
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, figure")]
        .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute("aria-label"))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == [] and page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    levels = page.evaluate("""() => [...document.querySelectorAll("h1, h2, h3")]
        .map((e) => Number(e.tagName[1]))""")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
