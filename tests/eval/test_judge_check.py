"""``benchmark=judge_check``: agreement by hand, a judge on loopback against published verdicts."""

import gzip
import json
import math
from pathlib import Path

import pytest

from eval.__main__ import evaluate, main
from eval.contracts import EvaluationContext
from eval.judge_check import JudgeCheck, agreement, longer_rate
from eval.settings import read_settings
from eval.types import Pair
from lsp.errors import ConfigError, RunError

SHARED = Path(__file__).parents[3] / "shared" / "alpaca_eval"


def test_agreement_and_kappa_by_hand():
    # win/win, win/loss, loss/loss, loss/loss; p_o = 3/4, p_e = (2/4)(1/4) + (2/4)(3/4) = 1/2.
    result = agreement([2.0, 1.6, 1.0, 1.2, None], [1.9, 1.1, 1.0, 1.4, 2.0])
    assert (result.agreement, result.kappa, result.n, result.n_missing) == (75.0, 0.5, 4, 1)
    assert agreement([1.5, 1.5001], [1.5, 1.5]).agreement == 50.0  # a tie is its own outcome
    assert agreement([2.0, 2.0], [2.0, 2.0]).agreement == 100.0
    assert math.isnan(agreement([2.0, 2.0], [2.0, 2.0]).kappa)
    assert agreement([None], [2.0]).n == 0


def test_the_longer_answer_by_hand():
    pairs = [Pair(i, "s", "q", "xx" if i < 3 else "x", "x") for i in range(4)]
    # Three pairs differ in length; of their verdicts one is a tie, one of the two prefers length.
    assert longer_rate(pairs, [2.0, 1.0, 1.5, 2.0]) == 50.0
    assert math.isnan(longer_rate(pairs, [None] * 4))


@pytest.fixture
def check(tmp_path, judge_server, monkeypatch):
    """(a function from rows and overrides to results, the server): it prefers longer answers."""
    server = judge_server()
    monkeypatch.setenv("JUDGE_KEY", "key")

    def run(rows, *overrides, show=False):
        (tmp_path / "published.json").write_text(json.dumps(rows))
        words = [
            "benchmark=judge_check", f"benchmark.data={tmp_path / 'published.json'}",
            "judge=compatible", f"judge.base_url={server.url}", "judge.model=new/judge",
            "judge.api_key_env=JUDGE_KEY", "judge.requests_per_minute=1000000",
            f"runs_root={tmp_path}", *overrides,
        ]  # fmt: skip
        return main(words) if show else evaluate(read_settings(words))

    return run, server


def row(preference, first="short", second="much longer", **more):
    row = {"instruction": "do", "output_1": first, "output_2": second, "preference": preference}
    return {**row, **more}


def test_a_judge_is_scored_against_published_verdicts(check, tmp_path, capsys):
    run, server = check
    rows = [
        row(2.0, dataset="koala"),
        row(1.8, dataset="vicuna"),
        row(1.1, second="a longer one", dataset="vicuna"),
        row(1.2, first="the longer one", second="b", dataset="koala"),
        row(1.5, first="same", second="same"),
        row(None),
    ]
    results = run(rows)
    assert len(server.requests) == 8
    overall = results["agreement"]["overall"]
    assert (overall["agreement"], overall["n"]) == (75.0, 4)
    assert results["agreement"]["koala"]["agreement"] == 100.0
    assert results["longer_rate"] == {"judge": 100.0, "published": 75.0}
    assert results["order_effect"]["disagree_frac"] == 0.0
    assert (results["n_identical"], results["n_unpublished"], results["n_missing"]) == (1, 1, 0)
    place = tmp_path / "eval" / "judge_check" / "new--judge" / "results.json"
    assert json.loads(place.read_text())["agreement"] == results["agreement"]
    run(rows, show=True)
    out = capsys.readouterr().out
    assert (
        "prefers the longer answer in 100.0 % of its choices; published verdicts do in 75.0 %"
        in out
    )
    assert len(server.requests) == 8  # nothing was asked again
    run(rows, "benchmark.max_pairs=2", "dry_run=true")
    out = capsys.readouterr().out
    assert "new/judge on 2 pairs" in out and "4 calls, " in out and "prompt tokens" in out


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(0)], r"row 1: preference=0 is not in \[1, 2\]; 1.5 is a tie"),
        ([{"instruction": "x"}], "row 1 has no column 'output_2'; it has 'instruction'"),
        ([row(1.5, "a", "a")], "holds no pair of different answers"),
    ],
)
def test_bad_files_are_refused_before_any_call(check, rows, says):
    run, server = check
    with pytest.raises(RunError, match=says):
        run(rows)
    assert not server.requests


def test_bad_settings_of_a_check(check):
    run, _ = check
    with pytest.raises(RunError, match=r"needs benchmark\.data="):
        JudgeCheck(name="judge_check", data=None, max_pairs=None).build(EvaluationContext(None))
    with pytest.raises(ConfigError, match="benchmark=judge_check measures chat judges"):
        run([row(2.0)], "judge=verifier")
    with pytest.raises(ConfigError, match="run=x: is not judge_check's. Leave it out"):
        run([row(2.0)], "run=x")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the AlpacaEval files beside the repository")
def test_a_judge_that_likes_length_on_published_verdicts(check):
    """phi-2 against GPT-4 Turbo: the published judge prefers the longer answer far less often."""
    run, server = check
    lines = {}
    for name in ("phi-2", "gpt4_1106_preview"):
        with gzip.open(SHARED / "model_outputs" / f"{name}.jsonl.gz", "rt") as stream:
            lines[name] = {r["index"]: r for r in map(json.loads, stream)}
    with gzip.open(SHARED / "annotations" / "phi-2.jsonl.gz", "rt") as stream:
        verdicts = [json.loads(line) for line in stream][:40]
    rows = [
        {**lines["phi-2"][v["index"]], "preference": v["preference"],
         "output_1": lines["gpt4_1106_preview"][v["index"]]["output"],
         "output_2": lines["phi-2"][v["index"]]["output"]}
        for v in verdicts
    ]  # fmt: skip
    results = run(rows)
    assert results["agreement"]["overall"]["n"] == 40 == len(server.requests) / 2
    assert results["longer_rate"]["judge"] == 100.0
    assert 50 < results["longer_rate"]["published"] < 100
