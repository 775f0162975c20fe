"""``python -m eval`` end to end: a real run's answers, a judge on loopback, results on disk."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from eval.__main__ import evaluate, evaluation_folder, main
from eval.contracts import EvaluationContext
from eval.results import results_table
from eval.settings import read_settings
from lsp.errors import ConfigError, RunError
from lsp.judging.cache import VerdictCache
from lsp.judging.spending import known_judges, shutdown_warning

SETS = ["koala", "vicuna"]


@pytest.fixture
def command(small_run, data, tmp_path, judge_server, monkeypatch):
    """(overrides, server): the small run against its base, through a loopback judge."""
    run = shutil.copytree(small_run[0], tmp_path / "runs" / "run")
    server = judge_server()
    monkeypatch.setenv("JUDGE_KEY", "key-of-the-test")
    return [
        f"run={run}",
        f"benchmark.data={data}",
        "benchmark.max_new_tokens=8",
        "judge=compatible",
        f"judge.base_url={server.url}",
        "judge.model=judge-1",
        "judge.api_key_env=JUDGE_KEY",
        "judge.requests_per_minute=1000000",
        f"runs_root={tmp_path / 'runs'}",
        "dtype=float32",
        "date_string=null",
    ], server


def run_eval(overrides):
    return evaluate(read_settings(overrides))


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_run_is_judged_against_its_base(command, tmp_path, capsys):
    overrides, server = command
    main(overrides)
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "run" / "eval" / "alpaca_eval"
    results = json.loads((folder / "results.json").read_text())
    differing = 12 - results["n_identical"]
    assert len(server.requests) == 2 * differing and server.keys <= {"Bearer key-of-the-test"}
    assert len(lines_of(folder / "verdicts.jsonl")) == 2 * differing
    assert results["judge"] == "judge-1" and results["baseline"] == "pocket"
    overall = results["win_rate"]["overall"]
    assert overall["n"] == 12 and overall["n_missing"] == 0
    assert set(results["win_rate"]) == {*SETS, "overall"}
    assert "alpaca_eval_order" in results and results["order"] == "both"
    assert "identical pairs are ties" in out and "koala" in out
    assert results["order_effect"]["n"] == differing
    (answers,) = folder.glob("answers-*.jsonl")
    assert [row["index"] for row in lines_of(answers)] == list(range(12))
    # Again: no call, the base's answers are found, the same numbers.
    before = len(server.requests)
    again = run_eval(overrides)
    assert len(server.requests) == before
    assert again["win_rate"] == results["win_rate"]


def test_one_order_is_the_seeded_one(command):
    overrides, server = command
    results = run_eval([*overrides, "judge.order=one"])
    assert len(server.requests) == 12 - results["n_identical"]
    assert results["win_rate"] == results["alpaca_eval_order"]


def test_ready_answers_identical_pairs_and_missing_verdicts(command, data, tmp_path):
    overrides, server = command
    rows = json.loads(data.read_text())
    for name, texts in (("long", ["long answer"] * 12), ("short", ["long answer"] * 5 + ["b"] * 7)):
        answers = [{**row, "output": text} for row, text in zip(rows, texts, strict=True)]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    sides = [f"run={tmp_path / 'long.json'}", f"baseline={tmp_path / 'short.json'}"]
    results = run_eval([*overrides[1:], *sides])
    assert results["n_identical"] == 5 and len(server.requests) == 14
    # The server prefers the longer answer, whatever the order: no position bias to be seen.
    assert results["order_effect"] == {"first_rate": 50.0, "disagree_frac": 0.0, "n": 7}
    # Five ties and seven preferences of 1.9: (5 x 0.5 + 7 x 0.9) / 12.
    assert results["win_rate"]["overall"]["win_rate"] == pytest.approx(100 * 8.8 / 12)
    discrete = results["win_rate"]["overall"]["discrete"]
    assert (discrete["wins"], discrete["ties"], discrete["losses"]) == (7, 5, 0)
    assert "7 pairs have no verdict" not in results_table(results)
    # Unreadable verdicts are left out and counted.
    server.always = "not a verdict"
    unread = run_eval([*overrides[1:], *sides, "judge.model=judge-2", "judge.max_tries=1"])
    assert unread["n_missing"] == 7 and unread["win_rate"]["overall"]["n"] == 5
    assert "7 pairs have no verdict" in results_table(unread)


def test_a_dry_run_says_calls_tokens_and_dollars_and_needs_no_key(command, capsys, monkeypatch):
    overrides, server = command
    monkeypatch.delenv("JUDGE_KEY")
    dry = [text for text in overrides if not text.startswith("judge")]
    main([*dry, "dry_run=true"])
    out = capsys.readouterr().out
    assert "12 instructions" in out and "24 calls" in out and "dollars (judges.json)" in out
    main([*overrides, "dry_run=true"])
    assert "dollars unknown" in capsys.readouterr().out
    assert not server.requests


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (["judge.api_key_env=NOT_SET"], ConfigError, "Set NOT_SET"),
        (["judge.api_key_env=OPENAI_API_KEY"], ConfigError, "does not get OpenAI's key"),
        (["judge.max_usd=1"], ConfigError, "needs the judge's price"),
        (["judge.concurrency=0"], ConfigError, "must be at least 1"),
        (["run=nowhere.json"], RunError, "is to be a file of answers, and there is no file"),
        (["run=./nowhere"], RunError, "neither a run, a model folder nor a file"),
        (["baseline=no-such/model"], RunError, "no-such/model is neither a run nor a model folder"),
        (["benchmark.data=hub:no-such/data/set.json"], RunError, "cannot be had from the Hub"),
        (["judge.base_url=localhost:8000"], ConfigError, "base_url is no address of a server"),
        (["judge.base_url=http://host:99999"], ConfigError, "base_url is no address of a server"),
        (["run=null"], ConfigError, "run: is missing. Give run="),
        (["run=pocket"], RunError, "is no run, so its base is not known"),
        (["benchmark.data=gone.json"], RunError, "there is no file gone.json"),
    ],
)
def test_bad_input_is_refused_before_any_call(command, change, error, says):
    overrides, server = command
    with pytest.raises(error, match=says):
        run_eval([*overrides, *change])
    assert not server.requests


def test_a_judge_that_is_gone_is_refused_and_an_announced_end_warns(command):
    overrides, _ = command
    without_judge = [text for text in overrides if not text.startswith("judge")]
    gone = next(name for name, j in known_judges().items() if j.get("shutdown", "9") < "2026-11")
    with pytest.raises(ConfigError, match="was shut down 2026-03-26. Use gpt-4o-2024-11-20"):
        run_eval([*without_judge, f"judge.model={gone}"])
    assert shutdown_warning("judge-1") is None


def test_a_refusing_judge_is_one_message(command, data, tmp_path):
    overrides, server = command
    server.always = "401"
    rows = json.loads(data.read_text())
    for name in ("one", "two"):
        answers = [{**row, "output": name} for row in rows]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    sides = [f"run={tmp_path / 'one.json'}", f"baseline={tmp_path / 'two.json'}"]
    with pytest.raises(
        RunError,
        match="the judge refuses: .*401.*; check judge.model, judge.base_url and the key in"
        " JUDGE_KEY. Verdicts that came are kept",
    ):
        run_eval([*overrides[1:], *sides])
    server.always = "not a verdict"
    with pytest.raises(SystemExit, match="there is no verdict at all"):
        main([*overrides[1:], *sides, "judge.max_tries=1", "judge.order=one"])


@pytest.mark.parametrize("key", ["", "abc\n", "schlüssel", "two words"])
def test_what_is_no_key_is_refused_before_anything(command, monkeypatch, key):
    overrides, _ = command
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="what JUDGE_KEY holds is no key"):
        run_eval(overrides)


def test_openais_key_goes_to_openai_alone(tmp_path, monkeypatch, judge_server):
    """The openai client reads another address from the environment; without_judge does not."""
    server = judge_server()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    config = read_settings(["run=x.json"])
    context = EvaluationContext(config, "sk-key", VerdictCache(tmp_path / "v.sqlite"))
    judge = config.judge.build(context)
    assert str(judge.client.base_url) == "https://api.openai.com/v1/"
    same = ["run=x.json", "judge.base_url=https://api.openai.com/v1"]
    assert read_settings(same).judge.api_key_env == "OPENAI_API_KEY"


def test_an_earlier_evaluation_that_differs_is_kept(command, data, tmp_path):
    overrides, _ = command
    first = run_eval(overrides)
    run_eval(overrides)
    folder = tmp_path / "runs" / "run" / "eval" / "alpaca_eval"
    assert not list(folder.glob("earlier-*"))
    run_eval([*overrides, "judge.model=judge-2"])
    kept = json.loads((folder / "earlier-1" / "results.json").read_text())
    assert kept["judge"] == "judge-1" and kept["answers"] == first["answers"]
    assert len(lines_of(folder / "earlier-1" / "pairs.jsonl")) == 12


def test_two_evaluations_of_one_run_at_once_are_refused(command, tmp_path):
    overrides, _ = command
    folder = tmp_path / "runs" / "run" / "eval" / "alpaca_eval"
    with evaluation_folder(folder), pytest.raises(RunError, match="another process is writing"):
        run_eval(overrides)


def test_the_command_reports_as_plain_text(data):
    words = [f"run={data}", "baseline=pocket", f"benchmark.data={data}", "dry_run=true"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    text = f"error: {data.resolve()}, row 1 has no column 'output'; it has 'instruction', 'dataset'"
    assert ended.value.code == text


@pytest.mark.slow
def test_an_evaluation_is_linked_to_the_model_in_wandb(small, command, tmp_path, wandb_stub):
    """Base -> run -> evaluation, by the real client against a server on loopback."""
    run, root = tmp_path / "runs" / "tracked", Path(__file__).parents[2]
    overrides, _ = command
    rows = json.loads((tmp_path / "instructions.json").read_text())
    answers = [{**row, "output": "long answer"} for row in rows]
    (tmp_path / "other.json").write_text(json.dumps(answers))
    trained = [*small, "tracker.mode=online", f"run_dir={run}", "num_steps=1"]
    judged = [*overrides[1:], f"baseline={tmp_path / 'other.json'}"]
    # The last: the model as W&B has it.
    code = (
        "import json, sys\nfrom eval.__main__ import main\nfrom lsp.loop.launch import start\n"
        "trained, judged, run = map(json.loads, sys.argv[1:])\n"
        "run_id = start(trained)['run_id']\n"
        "for side in (run, f'wandb:lsp/model-{run_id}:latest'): main([*judged, f'run={side}'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *map(json.dumps, (trained, judged, str(run)))],
        cwd=root,
        env={**os.environ, **wandb_stub.environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    results = json.loads((run / "eval" / "alpaca_eval" / "results.json").read_text())
    runs = {logged.job_type: logged for logged in wandb_stub.runs.values()}
    evaluation = runs["evaluation"]
    assert evaluation.uses == [f"model-{runs['train'].name}:v0"]
    overall = results["win_rate"]["overall"]["win_rate"]
    assert evaluation.summary["eval/alpaca_eval/overall/win_rate"] == pytest.approx(overall)
    table = evaluation.summary["eval/alpaca_eval/pairs"]
    assert table["nrows"] == 2 * (12 - results["n_identical"])
    assert evaluation.config["judge.model"] == "judge-1" and evaluation.exit_code == 0
    # The model as W&B has it answered like the one on disk.
    (again,) = (tmp_path / "runs" / "eval").glob("model-*/eval/alpaca_eval")
    assert json.loads((again / "results.json").read_text())["win_rate"] == results["win_rate"]


@pytest.mark.slow
def test_killed_three_times_no_committed_verdict_is_asked_again(data, tmp_path, judge_server):
    """kill -9 while calls are in flight: at most ``concurrency`` a kill are paid twice, counted."""
    concurrency, root = 4, Path(__file__).parents[2]
    server = judge_server(delay=0.03)
    rows = [{"instruction": f"question {i}", "dataset": "koala"} for i in range(60)]
    for name, text in (("instructions", None), ("long", "a long answer"), ("short", "b")):
        answers = [row if text is None else {**row, "output": text} for row in rows]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    command = [
        sys.executable, "-m", "eval", f"run={tmp_path / 'long.json'}",
        f"baseline={tmp_path / 'short.json'}", f"benchmark.data={tmp_path / 'instructions.json'}",
        "judge=compatible", f"judge.base_url={server.url}", "judge.model=judge-1",
        "judge.api_key_env=JUDGE_KEY", "judge.requests_per_minute=1000000",
        f"judge.concurrency={concurrency}", f"runs_root={tmp_path}",
    ]  # fmt: skip
    settings = {"cwd": root, "env": {**os.environ, "JUDGE_KEY": "k"}, "text": True}
    cache = tmp_path / "verdicts.sqlite"
    for kill in (1, 2, 3):
        process = subprocess.Popen(command, **settings, stderr=subprocess.DEVNULL)
        while len(server.requests) < 30 * kill:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        time.sleep(0.1)
        with sqlite3.connect(cache) as connection:
            kept = connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]
        assert len(server.requests) - kept <= kill * concurrency
    subprocess.run(command, **settings, check=True, capture_output=True)
    results = json.loads(next(tmp_path.glob("eval/*/eval/alpaca_eval/results.json")).read_text())
    assert results["win_rate"]["overall"]["n"] == 60 and results["n_missing"] == 0
    times_asked = Counter(json.dumps(request, sort_keys=True) for request in server.requests)
    assert len(times_asked) == 120 and len(server.requests) <= 120 + 3 * concurrency
    assert len(server.requests) <= results["calls_ever"] <= len(server.requests) + 3 * concurrency


def test_length_control_is_printed_and_its_tables_are_checked(command, data, tmp_path):
    overrides, server = command
    rows = json.loads(data.read_text())
    lengths = ([3, 9, 4, 7, 2, 8, 5, 6, 1, 9, 3, 4], [5, 5, 6, 2, 7, 3, 4, 9, 8, 1, 5, 6])
    for name, sizes in zip(("one", "two"), lengths, strict=True):
        answers = [{**row, "output": "x" * n} for row, n in zip(rows, sizes, strict=True)]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    sides = [f"run={tmp_path / 'one.json'}", f"baseline={tmp_path / 'two.json'}"]
    results = run_eval([*overrides[1:], *sides])
    controlled = results["length_controlled"]
    assert controlled["variant"] == "length_controlled_minimal"
    assert set(controlled["win_rate"]) == {*SETS, "overall"}
    assert "(length_controlled_minimal)" in results_table(results)
    assert results["mean_length"]["overall"] == {"model": 61 / 12, "baseline": 61 / 12}
    table = tmp_path / "difficulty.csv"
    table.write_text("instruction_difficulty\n" + "\n".join(str(i / 4) for i in range(12)))
    before = len(server.requests)
    noreg = run_eval([*overrides[1:], *sides, f"benchmark.difficulty={table}"])
    assert noreg["length_controlled"]["variant"] == "length_controlled_noreg"
    assert len(server.requests) == before
    table.write_text("instruction_difficulty\n1\n")
    for change, says in (
        ([f"benchmark.difficulty={table}"], "has difficulties of 1 instructions, and there are 12"),
        (["benchmark.difficulty=gone.csv"], "there is no file gone.csv"),
    ):
        with pytest.raises(RunError, match=says):
            run_eval([*overrides[1:], *sides, *change])


def test_a_dry_run_counts_tokens_with_the_judges_tokenizer(command, capsys):
    overrides, _ = command
    folder = "lsp/pocket/base"
    main([*overrides, "dry_run=true", f"judge.tokenizer={folder}"])
    out = capsys.readouterr().out
    assert f"(counted with {folder})" in out and "answers are not written yet" in out
    main([*overrides, "dry_run=true"])
    assert "(four characters a token; " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="judge.tokenizer=./gone cannot be loaded"):
        main([*overrides, "dry_run=true", "judge.tokenizer=./gone"])
