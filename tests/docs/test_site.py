"""docs/ as a site: it builds strictly, says what the files say, and fetches nothing when read."""

import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
STRUCTURE = {"h1", "h2", "h3", "ul", "ol", "li", "table", "tr", "pre", "code", "em", "strong"}


def build(folder):
    """Runs the builder over <folder>/mkdocs.yml and <folder>/docs."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "site"


class Page(HTMLParser):
    """Words and structure of what a page says: all of it, or what stands inside <article>, less the
    marks that link to headings."""

    def __init__(self, html, inside=None):
        super().__init__()
        self.inside, self.depth, self.skipped = inside, 0, 0
        self.words, self.structure = "", Counter()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.depth += tag == self.inside
        if self.inside and not self.depth:
            return
        if self.skipped or "headerlink" in (dict(attributes).get("class") or ""):
            self.skipped += 1
        if tag in STRUCTURE:
            self.structure[tag] += 1

    def handle_endtag(self, tag):
        self.depth -= tag == self.inside
        self.skipped -= self.skipped > 0

    def handle_data(self, text):
        if not self.skipped and (self.depth or not self.inside):
            self.words += "".join(text.split())


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (nav,) = re.findall(r"(?ms)^nav:\n.*?\n\n", text)
    groups = yaml.safe_load(nav)["nav"]
    linked = [page for group in groups for pages in group.values() for each in pages
              for page in each.values()]  # fmt: skip
    assert sorted(linked) == [page.as_posix() for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_of_the_site_says_what_a_hosting_site_shows_of_the_file(site, page):
    """Their dialects differ: a list that follows a paragraph without a blank line is none here."""
    text = (DOCS / page).read_text(encoding="utf-8")
    hosted = Page(MarkdownIt("commonmark").enable("table").render(text))
    here = Page((site / page.with_suffix(".html")).read_text(encoding="utf-8"), "article")
    assert here.words == hosted.words
    assert here.structure == hosted.structure


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_links_to_nothing_outside_of_docs(page):
    """Such a link works on a hosting site alone; in the site, a file is named by its path."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if "://" not in target:
            place = (DOCS / page.parent / target).resolve()
            assert place.exists() and place.is_relative_to(DOCS), target


@pytest.mark.parametrize("link", ["nope.md", "index.md#nope", "../README.md"])
def test_the_build_refuses_a_link_that_leads_nowhere(tmp_path, link):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n[there]({link})\n")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"(?ms)^nav:\n.*?\n\n", "", text))
    built = build(tmp_path)
    assert built.returncode != 0
    assert "does not exist" in built.stdout + built.stderr


def test_nothing_of_a_page_is_named_by_an_address(site):
    """What a browser loads by itself: scripts, style sheets, pictures, fonts."""
    loaded = r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|srcset|data)="
    links = r"<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev)\b)[^>]*\bhref="
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert re.findall(rf"(?:{loaded}|{links})[\"']?((?:https?:)?//[^\"'\s>]+)", html) == []
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')\s]+)", css) == []
    assert not [path for path in site.rglob("*") if path.suffix in {".woff", ".woff2", ".ttf"}]


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """No line for each file."""


@pytest.mark.slow
def test_a_browser_reads_and_searches_it_without_another_server(site, chromium):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    said, asked = [], []
    with chromium.new_page() as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for path in PAGES:
            page.goto(home + path.with_suffix(".html").as_posix())
        page.goto(home)
        page.keyboard.press("/")
        page.keyboard.type("NashConv")
        page.get_by_text(re.compile(r"^[1-9]\d* results$")).wait_for()
    server.shutdown()
    assert len(asked) > len(PAGES)
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
    assert said == []
