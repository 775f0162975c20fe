"""``lsp view`` in a real browser: headless Chromium follows a run that goes on."""

import json
import shutil
import threading
from pathlib import Path

import browser
import pytest

from lsp.run.folder import lock_run, note_phase, update_run
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace
from lsp.view import LiveReport, Server

HOSTILE = '</script><script>window.top.hacked=1</script><img src=x onerror="window.top.hacked=1">'


@pytest.fixture
def visit(chromium):
    """``page = visit(folder)``: what ``lsp view`` serves of a run; at the end the console is clean
    and nothing of elsewhere was asked for. ``page.report``: the frame that the report is in;
    ``page.server``; ``page.said``: what the console has."""
    servers, contexts, said, asked = [], [], [], []

    def make(folder, **settings):
        servers.append(Server(LiveReport(folder, {}), 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        context = chromium.new_context(**settings)
        context.set_default_timeout(browser.PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(servers[-1].url)
        page.report, page.server, page.said = page.frame_locator("#report"), servers[-1], said
        return page

    yield make
    for context in contexts:
        context.close()
    for server in servers:
        server.shutdown()
        server.server_close()
    assert said == []
    assert all(url.startswith(("data:", *(server.url for server in servers))) for url in asked)


def newest_step(page, step):
    """Wait until the report that is seen has a step."""
    page.wait_for_function(
        """step => { const seen = document.querySelector("#report");
            const slider = seen && seen.contentDocument.querySelector("#step");
            return slider && Number(slider.max) === step - 1; }""",
        arg=step,
    )


@pytest.mark.slow
def test_the_page_follows_a_real_run_and_leaves_the_reader_where_he_is(gated_run, visit):
    run = gated_run(steps=4)
    page = visit(run.folder)
    page.get_by_text("The report comes with the first step.").wait_for()
    run.played(2)
    newest_step(page, 2)
    heading = page.report.locator("#board h3")
    assert heading.inner_text() == "Step 2"
    page.locator("#step").filter(has_text="2 of 4 steps").wait_for()
    assert page.locator("#status").inner_text() == "running"

    # Nobody reads a card: the newest step is shown.
    run.played(3)
    newest_step(page, 3)
    assert heading.inner_text() == "Step 3"

    # Somebody does: step 1, its second card open, a word in the filter, scrolled to the card.
    frame = page.locator("#report").element_handle().content_frame()
    slider = page.report.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    page.report.get_by_label("Filter", exact=True).fill(" ")
    card = page.report.locator("#board details").nth(1)
    card.locator("summary").click()
    text = card.locator("summary .text").inner_text()
    card.locator(".answer").first.wait_for()
    top = "document.querySelectorAll('#board details')[1].getBoundingClientRect().top"
    frame.evaluate(f"window.scrollBy(0, {top} - 40)")
    before = frame.evaluate(top)
    run.may(4)
    newest_step(page, 4)
    assert heading.inner_text() == "Step 1, before any update"
    frame = page.locator("#report").element_handle().content_frame()
    opened = page.report.locator("#board details[open]")
    assert opened.count() == 1 and opened.locator("summary .text").inner_text() == text
    assert opened.locator(".answer").count() > 0
    assert frame.evaluate(top) == pytest.approx(before, abs=3)
    assert page.report.get_by_label("Filter", exact=True).input_value() == " "
    assert frame.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.locator("#status").filter(has_text="finished").wait_for()
    page.report.get_by_text("Finished: 4 steps in").wait_for()
    assert page.locator("iframe").count() == 1


@pytest.fixture
def going(small_run, tmp_path):
    """A run of three steps that goes on, and its lock."""
    folder = Path(shutil.copytree(small_run[0], tmp_path / "run"))
    (folder / "summary.json").unlink()
    update_run(folder, status="running")
    with lock_run(folder) as lock:
        note_phase(lock, "step 4/9, answers")
        yield folder


def add_step(folder, step, text="copy a"):
    like = read_trace(folder, [3])[0]
    LocalTracker(folder).log(step, {}, [like | {"step": step, "query": text, "answer": text}])


@pytest.mark.slow
def test_hostile_text_stays_text_when_it_comes_later(going, visit):
    update_run(going, id=f"run {HOSTILE}".replace("/", "\\"), reason=HOSTILE)
    page = visit(going)
    newest_step(page, 3)
    add_step(going, 4, HOSTILE)
    (going / "alerts.jsonl").write_text(json.dumps({"step": 4, "text": HOSTILE}) + "\n")
    newest_step(page, 4)
    page.report.locator("#board summary .text").filter(has_text="onerror").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == page.report.locator("img").count() == 0
    assert (
        "onerror" in page.title() and "step 4/9, answers: " in page.locator("#words").inner_text()
    )


@pytest.mark.slow
def test_a_run_that_is_gone_is_said_and_the_report_stays(going, visit):
    page = visit(going)
    newest_step(page, 3)
    going.rename(going.with_name("moved"))
    page.get_by_role("alert").filter(has_text="is gone: it was moved or removed").wait_for()
    assert page.report.locator("#board h3").inner_text() == "Step 3"
    going.with_name("moved").rename(going)
    page.get_by_role("alert").wait_for(state="hidden")


@pytest.mark.slow
def test_a_server_that_ended_is_said_and_the_report_stays(going, visit):
    page = visit(going)
    newest_step(page, 3)
    page.server.shutdown()
    page.server.server_close()
    page.get_by_role("alert").filter(has_text="lsp view does not answer").wait_for()
    assert page.report.locator("#board h3").inner_text() == "Step 3"
    page.context.close()
    while page.said:  # the browser itself says that nobody answers
        assert "net::ERR_CONNECTION_RE" in page.said.pop()


@pytest.mark.parametrize("width", [320, 1280])
def test_the_bar_fits_and_what_it_says_is_readable(going, visit, width):
    page = visit(going, viewport={"width": width, "height": 800})
    newest_step(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#report").bounding_box()["height"] > 600
    assert page.locator("html").get_attribute("lang") == "en"
    names = "[...document.querySelectorAll('iframe, progress')].map((e) => e.title || e.ariaLabel)"
    assert page.evaluate(names) == ["Steps", "Report"]
