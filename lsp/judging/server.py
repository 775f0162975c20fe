"""A server of chat completions: its settings go in, its problems and openai's client come out."""

from __future__ import annotations

import os
import re
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from lsp.judging.spending import day, known_judges
from lsp.settings.schema import setting, settings
from lsp.tools import http
from lsp.tools.addresses import is_openai
from lsp.tools.secrets import scrub

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CHAT = "/chat/completions"


@settings
class ChatServer:
    """A model behind chat completions, OpenAI's or any server that speaks them."""

    model: str = setting("the model's name at the server; OpenAI's with its date")
    base_url: str | None = setting("such as http://host:8000/v1, or Azure's; null: OpenAI's")
    api_key_env: str | None = setting(
        "the name of the environment variable that holds the key; null: none"
    )
    concurrency: int = setting("calls at a time", ge=1, le=4096)
    requests_per_minute: int = setting("calls a minute, at most", ge=1, le=10_000_000)
    timeout_seconds: float = setting("of a call", gt=0, le=86_400)
    max_tries: int = setting("of one question, the first included", ge=1, le=100)
    max_tokens: int = setting("of an answer of this model", ge=1, le=65_536)
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = setting(
        "what the server calls the limit of an answer"
    )
    temperature: float | None = setting("of this model; null: not sent", ge=0, le=100)

    @property
    def url(self) -> str:
        return OPENAI_URL if self.base_url is None else self.base_url

    def server_problems(self) -> list[tuple[str, str]]:
        """(reason, way out) of what keeps the server from being asked, but for the key."""
        entry, problems = known_judges().get(self.model, {}), []
        other_host = not is_openai(self.url)
        if other_host and self.api_key_env == OPENAI_KEY:
            reason = f"{OPENAI_KEY}: another host than OpenAI's does not get OpenAI's key"
            fix = "name the variable that holds its own key as api_key_env"
            problems.append((f"api_key_env={reason}", fix))
        problems += http.address_problems("base_url", self.url)
        if urlsplit(self.url).path.rstrip("/").endswith(CHAT):
            problems.append((f"base_url ends in {CHAT}, which is added to it", "leave that off"))
        if scrub(self.model) != self.model:
            fix = "keys come from environment variables, never from settings"
            problems.append(("model holds what looks like a secret", fix))
        if "shutdown" in entry and not other_host and day() >= entry["shutdown"]:
            reason = f"model={self.model} was shut down {entry['shutdown']}"
            problems.append((reason, f"use {entry['instead']}"))
        return problems

    @property
    def api_key(self) -> str:
        """The key as it stands in the environment; empty where there is none."""
        return os.environ.get(self.api_key_env, "") if self.api_key_env else ""

    def key_problems(self) -> list[tuple[str, str]]:
        """(reason, way out) where the environment does not hold the key that is to be sent."""
        if self.api_key_env is None or re.fullmatch(r"[!-~]+", self.api_key):
            return []
        reason = f"the environment variable {self.api_key_env} holds no key"
        return [(reason, "export it, without blanks, or say api_key_env=null")]


def openai_client(server: ChatServer, api_key: str) -> Any:
    """openai's client behind our boundary. An address with ``?api-version=`` is Azure's form: its
    own client sends the key as ``api-key``, and what stands behind ``?`` goes with every call."""
    import openai

    parts = urlsplit(server.url)
    query = dict(parse_qsl(parts.query))
    url = parts._replace(query="").geturl()
    options: dict[str, Any] = {
        "api_key": api_key or "none",  # which ``no_key`` keeps from being sent
        "base_url": url,
        "default_query": query,
        "max_retries": 0,
        "timeout": None,
        "http_client": http.client(url, server.timeout_seconds),
    }
    if version := query.get("api-version"):
        return openai.AsyncAzureOpenAI(api_version=version, **options)
    return openai.AsyncOpenAI(**options)


def no_key() -> dict[str, Any]:
    """Headers of a call that goes without a key."""
    import openai

    return {"Authorization": openai.Omit()}
