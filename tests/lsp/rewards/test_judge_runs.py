"""Whole runs on ``reward=judge``: what they log, what they pay, and what ends them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bad_answers import ENDLESS, FOR_JUDGE, BadServer, redirects

from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.judging.cache import VerdictCache
from lsp.judging.spending import Prices
from lsp.loop.launch import start
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics, read_trace

KEY = "q7-Judge_Key.0123456789"
ROOT = Path(__file__).parents[3]
BAD = {**FOR_JUDGE, **ENDLESS, **redirects("http://127.0.0.1:9/")}


@pytest.fixture
def given(small, tmp_path, monkeypatch, without_pictures):
    """``given(folder, server)``: a short run that tells ``server`` its key."""
    monkeypatch.setenv("REWARD_HOLDER", KEY)
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.001)

    def made(name, server, *more, place="reward"):
        return [
            *small[1:3], "num_steps=3", "eval=none", "objective=null", "tracker=none",
            "checkpoint.every=1", "hardware=cpu", f"runs_root={tmp_path}",
            f"run_dir={tmp_path / name}", *more, f"{place}.model=judge-1",
            f"{place}.base_url={server.url}", f"{place}.api_key_env=REWARD_HOLDER",
            f"{place}.requests_per_minute=10000000", f"{place}.timeout_seconds=600",
        ]  # fmt: skip

    return made


def rewards_of(folder):
    """Rounded by nothing."""
    return [(r["step"], r["query"], r["answer"], r["reward"]) for r in read_trace(folder)]


def test_a_run_learns_from_grades_and_a_repeated_or_resumed_one_pays_for_none(
    judge_server, given, tmp_path
):
    server = judge_server("Grading")
    start(given("run", server, "reward=judge"))
    lines, rows = read_metrics(tmp_path / "run"), read_trace(tmp_path / "run")
    played = [row for row in rows if row["answer"] is not None]
    for row in played:
        grade = 0.75 * min(9, len(row["answer"])) / 9
        assert row["reward"] == pytest.approx(grade, rel=1e-6)
    pairs = {(row["query"], row["answer"]) for row in played}
    assert len(server.requests) == len(pairs)
    for line in lines:
        mine = [row["reward"] for row in played if row["step"] == line["step"]]
        assert line["reward/external/mean"] == pytest.approx(sum(mine) / len(mine))
        assert line["reward/external/unread/mean"] == line["reward/external/from_text/mean"] == 0
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    # A run that is cut goes on to the same rewards, and what was judged is not asked about again.
    start(given("cut", server, "reward=judge", "num_steps=2"))
    start([f"resume={tmp_path / 'cut'}", "num_steps=3"])
    assert rewards_of(tmp_path / "cut") == rewards_of(tmp_path / "run")
    assert len(server.requests) == len(pairs)


def test_a_budget_ends_a_run_which_goes_on_with_a_higher_one(
    judge_server, given, tmp_path, monkeypatch
):
    for module in ("judge", "judge_scorer"):
        dollars = Prices(input=100.0, output=100.0)
        monkeypatch.setattr(f"lsp.rewards.{module}.prices", lambda model, known=dollars: known)
    server = judge_server("Grading")
    with pytest.raises(RunError) as raised:
        start(given("run", server, "reward=judge", "reward.max_usd=0.15", "reward.concurrency=1"))
    said, command = str(raised.value).split("\ngo on with: python run.py ")
    assert said.startswith("reward.max_usd=0.15 is reached: calls in ")
    assert said.endswith("with a higher reward.max_usd written behind it no call is made twice")
    paid = len(server.requests)
    assert 0 < VerdictCache(tmp_path / "judged.sqlite").spent() <= 0.15
    start([*shlex.split(command), "reward.max_usd=50", "reward.concurrency=8"])
    rows = [row for row in read_trace(tmp_path / "run") if row["answer"] is not None]
    assert paid < len(server.requests) == len({(row["query"], row["answer"]) for row in rows})
    assert len(read_metrics(tmp_path / "run")) == 3


@pytest.mark.slow
def test_a_judge_as_a_part_of_a_sum_is_named_by_its_place(judge_server, given, tmp_path):
    server = judge_server("Grading")
    place = "reward.parts.judged.reward"
    parts = ["reward=weighted", "+reward@reward.parts.judged.reward=judge",
             "+reward.parts.judged.weight=0.5"]  # fmt: skip
    start(given("run", server, *parts, place=place))
    line = read_metrics(tmp_path / "run")[-1]
    whole = line["reward/external/part/verifier/mean"]
    whole += 0.5 * line["reward/external/part/judged/mean"]
    assert line["reward/external/mean"] == pytest.approx(whole)
    assert "reward/external/part/judged/unread/mean" in line
    server.always = "temperature"
    with pytest.raises(RunError, match=rf"say {place}.temperature=null. Verdicts that came"):
        start([f"resume={tmp_path / 'run'}", "num_steps=6"])
    server.always = "BUSY"
    with pytest.raises(RunError) as raised:
        start([f"resume={tmp_path / 'run'}", "num_steps=6"])
    said, command = str(raised.value).split("\ngo on with: python run.py ")
    assert said.endswith(
        f"raise {place}.timeout_seconds or {place}.max_tries. Verdicts that came are kept"
    )
    server.always = None
    start([*shlex.split(command), f"{place}.max_tries=9", "num_steps=6"])
    assert len(read_metrics(tmp_path / "run")) == 6


@pytest.mark.slow
def test_two_processes_are_graded_as_one(judge_server, given, tmp_path):
    """They share the cache, each asks about its part, and the second run asks about nothing."""
    server = judge_server("Grading")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "run.py", *given("two", server, "reward=judge")]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr[-4000:]
    asked = len(server.requests)
    start(given("one", server, "reward=judge", "runtime.threads=1"))
    assert len(server.requests) == asked
    assert rewards_of(tmp_path / "one") == rewards_of(tmp_path / "two")


@pytest.mark.parametrize("name", BAD)
def test_whatever_a_server_answers_a_step_ends_with_one_line_or_pairs_that_are_counted(
    given, tmp_path, name
):
    server = BadServer(BAD[name])
    seconds = "reward.timeout_seconds=0.3" if name in ENDLESS else "reward.timeout_seconds=600"
    scorer = scorer_of(tmp_path, server.url, seconds)
    try:
        rewards = scorer(["a", "b"], ["c", "d"])
    except ValueError as error:
        said = str(error)
        assert said.isprintable() and len(said) < 600 and KEY not in said
    else:
        assert rewards == [0.5, 0.5] and scorer.details()["unread"] == [1, 1]
    server.close()


SCORERS = {}


def scorer_of(folder, url, seconds):
    """Composed once: only the address and the deadline differ."""
    from dataclasses import replace

    if not SCORERS:
        words = ["reward=judge", "reward.model=judge-1", "reward.base_url=http://127.0.0.1:9/v1",
                 "reward.api_key_env=REWARD_HOLDER", "reward.max_tries=2",
                 "reward.requests_per_minute=10000000", "tracker=none"]  # fmt: skip
        SCORERS["config"] = compose(words)
    config = SCORERS["config"]
    changes = {"base_url": url, "timeout_seconds": float(seconds.partition("=")[2])}
    reward = replace(config.reward, cache=str(folder / "own.sqlite"), **changes)
    return reward.build(BuildContext(replace(config, reward=reward)))
