"""Servers that answer badly: each ends a client's call with one line, whatever it sends."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.attack.outcome import Outcome, in_a_child
from tests.bad_answers import ENDLESS, FOR_JUDGE, FOR_REWARD, BadServer, Behaviour, redirects

KEY = "q7-Holders_Key.0123456789"
HOLDER = "ATTACKED_SERVERS_KEY"
ELSEWHERE = redirects("http://127.0.0.1:9/")
QUICK = {**ENDLESS, **ELSEWHERE}


def ask_reward(url: str, seconds: float, work: Path) -> None:
    from lsp.contracts import BuildContext
    from lsp.errors import RunError
    from lsp.rewards.http import HttpReward

    settings = HttpReward(
        url=url,
        api_key_env=HOLDER,
        batch_size=4,
        concurrency=2,
        max_tries=1,
        timeout_seconds=seconds,
    )
    try:
        settings.build(BuildContext(None))(["a", "b"], ["c", "d"])
    except ValueError as error:  # as a run tells it
        raise RunError(str(error)) from error


def ask_judge(url: str, seconds: float, work: Path) -> None:
    from eval.judge import ChatJudge, PairJudge
    from eval.types import Pair
    from lsp.errors import RunError
    from lsp.judging.cache import VerdictCache
    from lsp.judging.spending import Prices

    settings = ChatJudge(
        model="judge-1",
        base_url=f"{url}/v1",
        api_key_env=HOLDER,
        template="own",
        tokenizer=None,
        logprobs=True,
        order="one",
        order_seed=0,
        concurrency=1,
        requests_per_minute=10**6,
        max_usd=None,
        timeout_seconds=seconds,
        max_tries=1,
        max_tokens=1,
        max_tokens_name="max_tokens",
        temperature=0.0,
    )
    judge = PairJudge(settings, KEY, VerdictCache(work / "cache.sqlite"), Prices(100.0, 100.0))
    pair = Pair(0, "s", "a question", "one", "two")
    (verdict,) = asyncio.run(judge.judge_all([(pair, True)], lambda verdict: None))
    if verdict.preference is not None:
        raise AssertionError(f"a verdict out of nothing: {verdict}")
    raise RunError(verdict.problem)


CLIENTS: Mapping[str, tuple[Callable[[str, float, Path], None], Mapping[str, Behaviour]]] = {
    "reward": (ask_reward, {**FOR_REWARD, **QUICK}),
    "judge": (ask_judge, {**FOR_JUDGE, **QUICK}),
}


def attack(work: Path, count: int) -> list[Outcome]:
    """The first ``count`` bad answers for each client (all of them: a large number)."""
    os.environ[HOLDER] = KEY
    outcomes = []
    for client, (ask, behaviours) in CLIENTS.items():
        for name, behaviour in list(behaviours.items())[:count]:
            server = BadServer(behaviour)
            seconds = 0.3 if name in ENDLESS else 300.0
            url = f"http://127.0.0.1:{server.port}"
            call = _call(ask, url, seconds, work)
            outcomes.append(_checked(in_a_child(f"bad answer to the {client}: {name}", call)))
            server.close()
    return outcomes


def _call(ask: Callable[..., None], url: str, seconds: float, work: Path) -> Callable[[], Any]:
    return lambda: ask(url, seconds, work)


def _checked(outcome: Outcome) -> Outcome:
    """An error must be one printable line without the key."""
    if KEY in outcome.detail:
        return outcome._replace(kind="leak")
    if outcome.kind == "error" and not outcome.detail.isprintable():
        return outcome._replace(kind="traceback", detail=repr(outcome.detail))
    return outcome
