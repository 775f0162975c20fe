"""How close the judge comes to its ideal time: ``python -m tests.bench.judge``.

1,610 calls that a loopback server (a process of its own) answers after 500 ms, 64 in flight: ideal
is 1610 / 64 rounds of 500 ms. ``--faults`` lets 30 % of the calls go wrong.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from eval.judge import ChatJudge, PairJudge
from eval.types import Pair
from lsp.judging.cache import VerdictCache
from lsp.judging.spending import UNKNOWN

CALLS, SECONDS, IN_FLIGHT = 1610, 0.5, 64


def serve(place, faults: bool) -> None:
    """The tests' judge server; its URL goes through ``place``."""
    path = Path(__file__).parents[1] / "judge_server.py"
    spec = importlib.util.spec_from_file_location("judge_server", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge_server"] = module
    spec.loader.exec_module(module)
    place.put(module.JudgeServer(fault_rate=0.3 if faults else 0.0, delay=SECONDS).url)
    time.sleep(3600)


def main(faults: bool) -> None:
    context = multiprocessing.get_context("spawn")
    place = context.Queue()
    server = context.Process(target=serve, args=(place, faults), daemon=True)
    server.start()
    settings = ChatJudge(
        model="judge", base_url=place.get(), api_key_env="X", template="own", tokenizer=None,
        logprobs=True, order="both", order_seed=0, concurrency=IN_FLIGHT,
        requests_per_minute=10**6, max_usd=None, timeout_seconds=5.0, max_tries=12, max_tokens=1,
        max_tokens_name="max_tokens", temperature=0.0,
    )  # fmt: skip
    pairs = [Pair(i, "s", f"instruction {i}", "one answer", "another") for i in range(CALLS // 2)]
    questions = [(pair, first) for pair in pairs for first in (True, False)]
    with tempfile.TemporaryDirectory() as folder:
        cache = VerdictCache(Path(folder) / "verdicts.sqlite")
        judge = PairJudge(settings, "key", cache, UNKNOWN)
        wall, cpu = time.perf_counter(), time.process_time()
        verdicts = asyncio.run(judge.judge_all(questions, lambda verdict: None))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    server.terminate()
    read = sum(verdict.preference is not None for verdict in verdicts)
    ideal = math.ceil(CALLS / IN_FLIGHT) * SECONDS
    print(
        f"{read} of {CALLS} verdicts, {judge.calls} calls, {wall:.1f} s; ideal {ideal:.1f} s,"
        f" ratio {wall / ideal:.2f}; {cpu:.1f} CPU-seconds"
    )


if __name__ == "__main__":
    main("--faults" in sys.argv[1:])
