"""Settings of ``python -m eval``, checked like a run's: every mistake in one report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from eval.judge import OPENAI_URL, ChatJudge, Prices
from eval.judge_check import JudgeCheck
from lsp.errors import Problem
from lsp.settings.compose import CONF
from lsp.settings.schema import consent, number
from lsp.tools.secrets import scrub

EVALUATE = CONF / "evaluate"
OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class EvaluateConfig:
    """``conf/evaluate/config.yaml``."""

    run: str | None
    baseline: str | None
    control: bool
    eval: Any = field(metadata={"component": True})
    judge: Any = field(metadata={"component": True})
    runs_root: str
    dry_run: bool
    tie_rule: Literal["half", "loss", "drop"]
    dtype: Literal["float32", "bfloat16"]
    device: str
    date_string: str | None
    trust_remote_code: bool = consent()
    max_rows: int = number(minimum=1)

    def cross_checks(self) -> list[Problem]:
        problems = []
        if self.run is None and not isinstance(self.eval, JudgeCheck):
            fix = "give run=<run folder or id, model folder, Hub id, or file of answers>"
            problems.append(Problem("run", None, "is missing", fix))
        if isinstance(self.judge, ChatJudge):
            problems += _judge_problems(self.judge)
        given = [key for key in ("run", "baseline", "control") if getattr(self, key)]
        if isinstance(self.eval, JudgeCheck) and given:
            fix = "leave it out: the answers are those of eval.data"
            problems += [Problem(k, getattr(self, k), "is not judge_check's", fix) for k in given]
        if isinstance(self.eval, JudgeCheck) and not isinstance(self.judge, ChatJudge):
            fix = "choose judge=gpt4o or judge=compatible"
            problems.append(Problem("judge", None, "eval=judge_check measures chat judges", fix))
        return problems


def _judge_problems(judge: ChatJudge) -> list[Problem]:
    problems = []
    elsewhere = judge.base_url is not None and not judge.base_url.startswith(OPENAI_URL)
    if elsewhere and judge.api_key_env == OPENAI_KEY:
        fix = "name the variable that holds its own key: judge.api_key_env=…"
        reason = "another host than OpenAI's does not get OpenAI's key"
        problems.append(Problem("judge.api_key_env", judge.api_key_env, reason, fix))
    for key, value in (("judge.base_url", judge.base_url), ("judge.model", judge.model)):
        if value is not None and scrub(value) != value:
            fix = "keys come from environment variables, never from settings"
            problems.append(Problem(key, scrub(value), "holds what looks like a secret", fix))
    if judge.base_url is not None and not _is_url(judge.base_url):
        fix = "write it whole, such as http://host:8000/v1"
        problems.append(Problem("judge.base_url", judge.base_url, "is no http(s) address", fix))
    known = known_judges().get(judge.model, {})
    shutdown = known.get("shutdown")
    if shutdown and not elsewhere and today() >= shutdown:
        fix = f"use {known['instead']}"
        problems.append(Problem("judge.model", judge.model, f"was shut down {shutdown}", fix))
    if judge.max_usd is not None and prices(judge.model).input is None:
        fix = f"add it to {EVALUATE.name}/judges.json, or leave judge.max_usd out"
        problems.append(Problem("judge.max_usd", judge.max_usd, "needs the judge's price", fix))
    return problems


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is out of range
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def today() -> str:
    return time.strftime("%Y-%m-%d")


def known_judges(path: Path = EVALUATE / "judges.json") -> dict[str, dict[str, Any]]:
    """The dated table of judges: prices and announced shutdowns."""
    return json.loads(path.read_text(encoding="utf-8"))["judges"]


def prices(model: str) -> Prices:
    known = known_judges().get(model, {})
    return Prices(known.get("input"), known.get("output"))


def shutdown_warning(model: str) -> str | None:
    """Words about a judge whose end is announced and still ahead."""
    known = known_judges().get(model, {})
    if "shutdown" in known and today() < known["shutdown"]:
        return f"{model} will be shut down on {known['shutdown']}; {known['instead']}"
    return None
