"""What tests of pages look with: headless Chromium, which opens them from disk, and a parser.
Loaded by conftest."""

import shutil
from html.parser import HTMLParser

import pytest

PATIENCE = 600_000
"""Milliseconds until a page counts as hanging."""
CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")  # while it lives, asyncio.run works for nobody else
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: Debian's package is called chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    flags = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a report; at the end nothing was fetched but it, and the console is clean."""
    contexts, said, asked = [], [], []

    def make(path, **settings):
        context = chromium.new_context(**settings)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        asked.remove(path.as_uri())
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == [] and asked == []


def poor_contrast(page):
    """Texts and hints of fields that stand out from their ground by less than WCAG 2 asks, 4.5 to
    1; where there is nothing to be read, that."""
    return page.evaluate("""() => {
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
        let texts = 0;
        for (const e of document.querySelectorAll("body *:not(script)")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!(own || e.placeholder) || !e.getClientRects().length) continue;
            texts += 1;
            const style = getComputedStyle(e, e.placeholder ? "::placeholder" : null);
            const ink = rgb(e.closest("svg") ? style.fill : style.color);
            const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) found.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio}`);
        }
        return texts ? found : ["no text is there"];
    }""")


class Elements(HTMLParser):
    """Names of all elements of a page, and whether any attribute handles an event."""

    def __init__(self, page):
        super().__init__()
        self.names, self.handlers = set(), 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.handlers += sum(name.startswith("on") for name, _ in attributes)
