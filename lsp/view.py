"""``lsp view RUN``: a run goes in, a page on loopback comes out that shows it while it goes.

The page is the run's report (lsp/report/page.py) in a frame, under a bar that says what the run
does. The bar asks each second; the report is drawn again where its files have changed, somebody
looks, and the pause after the last drawing is over: a run has the machine before its onlookers.

Other users of the machine reach its loopback too, and so does every page that is open in a browser.
So nothing is answered without the token in the address, nor under a host that is not loopback (a
name of somebody else's may resolve to it), nor to anything but GET.
"""

import json
import re
import secrets
import sys
import threading
import time
import webbrowser
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import unescape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, NamedTuple

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.report.live import Activity, NewLines, activity, check_there, draw, version
from lsp.run.folder import find_run, read_run, saved_tree
from lsp.settings.command import consent, read_command
from lsp.settings.schema import setting, settings
from lsp.tools.places import LSP
from lsp.tools.text import visible

LOOPBACK = "127.0.0.1"
HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""With any port: `ssh -L` may have another one at its end."""
PAUSE, SHARE = 2.0, 3
"""Seconds between two drawings at least, and so many times what the last one took of a core."""
FRAME_POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]*)"')
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@settings
class ViewSettings:
    """Where the page is."""

    port: int = setting("of 127.0.0.1; 0: a free one", default=0, ge=0, le=65_535)
    open: bool = setting("open it in the browser, too", default=False)
    runs_root: str = setting("where run ids are looked up", default="outputs")
    trust: tuple[str, ...] = setting(
        "a world of your own to import: trust=[world._target_=mine.World]", default=()
    )


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(ViewSettings, arguments)
    if len(names) != 1:
        raise RunError(f"view takes one run, and these are {len(names)}: lsp view RUN")
    folder = find_run(names[0], chosen.runs_root)
    live = LiveReport(folder, consent(chosen.trust))
    try:
        server = Server(live, chosen.port)
    except OSError as error:
        raise RunError(
            f"port {chosen.port} of {LOOPBACK} cannot be used: {error.strerror}; leave port=… out"
            " for a free one"
        ) from error
    print(
        f"{server.url}\nshows {folder} while it goes; Ctrl-C ends the page, not the run", flush=True
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if chosen.open and not webbrowser.open(server.url):
        print("note: there is no browser here to open it in", file=sys.stderr)
    try:
        while True:
            check_there(folder)
            time.sleep(1)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the page has ended, the run was looked at, no more") from None
    finally:
        server.shutdown()
        server.server_close()


class Page(NamedTuple):
    """A report as it was drawn; ``version`` of the run's files, ``policy``: its own."""

    version: str
    html: bytes
    policy: str


class LiveReport:
    """A run's state, and its report, drawn when it is asked for, but not for each change."""

    def __init__(self, folder: Path, trusted: Mapping[str, Any]):
        self.folder, self.trusted = folder, trusted
        self.run_id = visible(read_run(folder)["id"])
        self._planned = saved_tree(folder)["num_steps"]
        self._looking, self._drawing = threading.Lock(), threading.Lock()
        self._lines, self._step = NewLines(folder), 0
        self._now: Activity | None = None
        self._files, self._with_lock = "", ""
        self._page = Page("", b"", "")
        self._next_drawing = 0.0

    def _look(self) -> Activity:
        """What goes on. The lock of a run that nobody holds is left alone until a file changes: to
        ask is to hold it for a moment, in which the run could not be gone on with."""
        with self._looking:
            files, with_lock = version(self.folder), version(self.folder, ".lock")
            if self._now is None or self._now.going or with_lock != self._with_lock:
                self._now = activity(self.folder)
                steps = [line.step for line in self._lines.read() if line.step is not None]
                self._step = (steps or [self._step])[-1]
                self._with_lock = with_lock
                self._files = f"{files}-{self._now.status}"
            return self._now

    def state(self) -> dict[str, Any]:
        """What the bar shows. ``version``: the one that the report has when it is asked for now;
        empty before there is a step to show. Raises RunError where the run is gone."""
        now = self._look()
        newest, drawn = self._files if self._step else "", self._page.version
        waits = drawn and time.monotonic() < self._next_drawing
        return {
            "words": visible(now.words, 500),
            "status": now.status,
            "going": now.going,
            "step": self._step,
            "steps": self._planned,
            "version": drawn if waits else newest,
        }

    def page(self) -> Page:
        """The report; drawn anew where files have changed and the pause is over."""
        with self._drawing:
            self._look()
            newest = self._files
            if newest != self._page.version and time.monotonic() >= self._next_drawing:
                began = time.thread_time()
                html, policy = self._draw()
                self._page = Page(newest, html.encode(), policy)
                worked = time.thread_time() - began
                self._next_drawing = time.monotonic() + max(PAUSE, SHARE * worked)
            return self._page

    def _draw(self) -> tuple[str, str]:
        """(a page, its policy): the report, or why there is none."""
        try:
            html = draw(self.folder, self.trusted)
        except RunError as error:
            return template("live_error.html").render(error=visible(str(error))), NOTHING
        found = FRAME_POLICY.search(html)
        assert found, "a report has a policy of its own"
        return html, unescape(found[1])


def template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(LSP / "report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def bar(run_id: str) -> tuple[str, str]:
    """(the page around the report, its policy): its one script and one style sheet by their hashes,
    its own state, its own frame."""
    from markupsafe import Markup

    script, style = ((LSP / "report" / f"live.{kind}").read_text("utf-8") for kind in ("js", "css"))
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (script, style)]
    policy = (
        f"{NOTHING}; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}';"
        " connect-src 'self'; frame-src 'self'; img-src data:"
    )
    page = template("live.html")
    return page.render(title=run_id, script=Markup(script), style=Markup(style)), policy


class Server(ThreadingHTTPServer):
    """Serves one run on loopback, under ``url``."""

    daemon_threads = True

    def __init__(self, live: LiveReport, port: int):
        self.live, self.bar = live, bar(live.run_id)
        self.prefix = f"/{secrets.token_urlsafe(32)}/"
        super().__init__((LOOPBACK, port), Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the network for a name

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}{self.prefix}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a browser that went away
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request, answered and closed."""

    server: Server
    server_version, sys_version = "lsp", ""
    timeout = 30

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.command != "GET":
            self.answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET"})
            return False
        return True

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0].strip()):
            self.answer(HTTPStatus.FORBIDDEN)
            return
        prefix = self.server.prefix
        begin, rest = self.path[: len(prefix)], self.path[len(prefix) :]
        if not secrets.compare_digest(begin.encode("utf-8"), prefix.encode()):
            self.answer(HTTPStatus.NOT_FOUND)
            return
        try:
            self._of_run(rest)
        except RunError as error:  # it is gone, or cannot be read
            self.answer(HTTPStatus.GONE, str(error).encode(), "text/plain")

    def _of_run(self, name: str) -> None:
        live = self.server.live
        if name == "":
            html, policy = self.server.bar
            self.answer(HTTPStatus.OK, html.encode(), "text/html", policy)
        elif name == "state":
            try:
                state = live.state()
            except RunError as error:
                state = {"problem": visible(str(error))}
            self.answer(HTTPStatus.OK, json.dumps(state).encode(), "application/json")
        elif name.startswith("report/"):
            page = live.page()
            if name == f"report/{page.version}":
                policy = f"{page.policy}; frame-ancestors 'self'"
                self.answer(HTTPStatus.OK, page.html, "text/html", policy)
            else:  # its address says what it is of
                self.answer(
                    HTTPStatus.FOUND,
                    headers={"Location": f"{self.server.prefix}report/{page.version}"},
                )
        else:
            self.answer(HTTPStatus.NOT_FOUND)

    def answer(
        self,
        code: int,
        body: bytes = b"",
        kind: str = "text/plain",
        policy: str = NOTHING,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What no request is: its code, and none of its words."""
        self.answer(code)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing of requests, whose addresses hold the token."""


if __name__ == "__main__":
    sys.exit(run_command("view", sys.argv[1:]))
