"""A request for another machine goes in; its answer, or why there is none, comes out.

Every client of a server that is not ours (the reward's, the judge's through ``openai``) sends
through ``client``. Whatever a server does, a call ends within its deadline, holds no more than
MAX_BYTES, goes to no other address, and fails with NoAnswer alone.

The environment's proxies are used for https alone, where they see a name and nothing else: over
plain http they would read prompts and keys. SSL_CERT_FILE and SSL_CERT_DIR hold as they do
everywhere; .netrc, cookies and headers that belong to OpenAI do not leave for another host.
"""

import asyncio
import json
import ssl
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from functools import cache
from typing import Any

import httpx2

from lsp.tools.addresses import address_problem, is_openai
from lsp.tools.secrets import HIDDEN, scrub
from lsp.tools.text import visible

MAX_BYTES = 16 * 2**20
"""Of an answer, as it arrives and after decompression: ten times what the largest batch of rewards
takes (65,536 numbers), and log-probabilities of some 30,000 tokens."""
SHOWN = 200
"""Characters of a server's words in a message."""
KEPT_HEADERS = ("retry-after",)
"""Of an answer: nothing else is asked for, and neither a cookie nor a redirect gets in."""
REDIRECTS = (301, 302, 303, 307, 308)
SENT_HEADERS = (
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
)
"""To another host than OpenAI's; its client also sends OPENAI_ORG_ID, OPENAI_PROJECT_ID and facts
about this machine."""


class NoAnswer(Exception):
    """A server's answer is none that can be used; the text says why, and is fit to be shown."""


def client(
    url: str, seconds: float, headers: Mapping[str, str] | None = None
) -> httpx2.AsyncClient:
    """For calls to the server at ``url``, each of at most ``seconds`` from the connection to the
    last byte."""
    transport = Boundary(url, seconds)
    return httpx2.AsyncClient(transport=transport, headers=headers, timeout=None, trust_env=False)


@cache
def certificates() -> ssl.SSLContext:
    """Read once: it takes longer than a small call, and the reward's client is made anew each
    step."""
    return httpx2.create_ssl_context()


class Boundary(httpx2.AsyncBaseTransport):
    """A transport whose answers are whole and small: a status, the bytes without the key that they
    may repeat, ``Retry-After``."""

    def __init__(self, url: str, seconds: float):
        self.seconds, self.openai = seconds, is_openai(url)
        # No limit of connections: the wait for one would count against the deadline.
        limits = httpx2.Limits()
        self.inner = httpx2.AsyncHTTPTransport(certificates(), limits=limits, proxy=proxy_of(url))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        words = (request.headers.get(name, "").split() for name in ("authorization", "api-key"))
        secrets = [word.encode() for line in words for word in line if len(word) >= 8]
        if not self.openai:
            request = _for_another_host(request)
        try:
            async with asyncio.timeout(self.seconds) as deadline:
                answer = await self.inner.handle_async_request(request)
                try:
                    limited = httpx2.Response(
                        answer.status_code, headers=answer.headers, stream=_Limited(answer.stream)
                    )
                    content = b"".join([part async for part in _limit(limited.aiter_bytes())])
                finally:
                    await answer.aclose()
        except NoAnswer:
            raise
        # What a library raises on bytes that no server should send is not listed anywhere: an
        # AssertionError and an SSLError were met.
        except Exception as error:
            if deadline.expired():
                raise NoAnswer(f"no answer in {self.seconds:g} s") from None
            raise NoAnswer(safe(f"{type(error).__name__}: {error}").rstrip(": ")) from error
        for secret in secrets:
            content = content.replace(secret, HIDDEN.encode())
        kept = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
        return httpx2.Response(answer.status_code, headers=kept, content=content)

    async def aclose(self) -> None:
        await self.inner.aclose()


def _for_another_host(request: httpx2.Request) -> httpx2.Request:
    """A copy, since openai finds its own headers in the request later."""
    kept = {name: request.headers[name] for name in SENT_HEADERS if name in request.headers}
    return httpx2.Request(
        request.method,
        request.url,
        headers=kept,
        stream=request.stream,
        extensions=request.extensions,
    )


class _Limited(httpx2.AsyncByteStream):
    """A stream as it arrives, which ends with NoAnswer where it is too long."""

    def __init__(self, stream: AsyncIterable[bytes]):
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in _limit(self.stream):
            yield part


async def _limit(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for part in parts:
        size += len(part)
        if size > MAX_BYTES:
            raise NoAnswer(f"an answer of more than {MAX_BYTES >> 20} MiB")
        yield part


def proxy_of(url: str) -> httpx2.Proxy | None:
    """The environment's proxy for an address. Raises ValueError where it names one that cannot be
    used."""
    target = httpx2.URL(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if target.scheme != "https" or not proxy or urllib.request.proxy_bypass(target.host):
        return None
    try:
        made = httpx2.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    except (ValueError, httpx2.InvalidURL):
        made = None
    if made is None or not made.url.host:
        raise ValueError("HTTPS_PROXY or ALL_PROXY in the environment is no proxy")
    if made.url.scheme not in ("http", "https"):
        raise ValueError(f"a proxy of {made.url.scheme}:// is not spoken to; HTTPS_PROXY names it")
    return made


def address_problems(name: str, url: str) -> list[tuple[str, str]]:
    """(reason, way out) of a setting that is a server's address."""
    if wrong := address_problem(url):
        fix = f"write {name}=http://host:port/path; a key comes from the environment (api_key_env)"
        return [(f"{name} {wrong}", fix)]
    try:
        proxy_of(url)
        if url.startswith("https:"):
            certificates()
    except ValueError as error:
        return [(f"{name}: {error}", "correct it, or name the host in NO_PROXY")]
    except OSError as error:
        reason = f"no certificates can be read: {error}"
        return [(f"{name}: {reason}", "correct SSL_CERT_FILE and SSL_CERT_DIR in the environment")]
    return []


def read_json(content: bytes) -> Any:
    """What the bytes of an answer say, whatever their Content-Type. Raises NoAnswer for anything
    that two readers could take for two things."""
    if not content.strip():
        raise NoAnswer("an empty answer")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_doubles)
    except UnicodeDecodeError:
        raise NoAnswer("an answer that is not UTF-8") from None
    except RecursionError:
        raise NoAnswer("an answer of JSON that is nested too deeply") from None
    except json.JSONDecodeError as error:
        shown = safe(text_of(content), limit=80)
        raise NoAnswer(f"an answer that is no JSON ({error.msg}): {shown}") from None
    except ValueError:  # Python's limit
        raise NoAnswer("an answer of JSON with a number of thousands of digits") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise NoAnswer("an answer of JSON with one name twice in an object")
    return whole


def text_of(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def said(status: int, text: str) -> str:
    """A status other than 200 and the server's words, for a message."""
    if status in REDIRECTS:
        return f"HTTP {status}, a redirect, and texts and keys go to no other address"
    return f"HTTP {status} {safe(text)}".strip()


def safe(text: str, limit: int = SHOWN) -> str:
    """A server's words, fit for a terminal and a file: short, on one line, without controls and
    what looks like a secret."""
    # Cut before it is searched, since the search may take the square of the length.
    words = " ".join(scrub(text[: 5 * limit]).split())
    return visible(words[:limit])
