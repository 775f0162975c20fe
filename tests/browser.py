"""A real browser for tests of pages: headless Chromium opens them from disk. Loaded by conftest."""

import shutil

import pytest

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
        context.set_default_timeout(10_000)
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
