"""``python -m eval eval=ifeval``: files in, numbers by hand out; a real run beside its base."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("if_verifiable")

from eval.__main__ import evaluate, main
from eval.compare import main as compare
from eval.settings import read_settings
from lsp.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]
IFEVAL = ROOT.parent / "shared" / "ifeval"
PROMPTS = [
    # prompt, constraints
    ("copy ab", {"punctuation:no_comma": {}, "change_case:english_lowercase": {}}),
    ("sort ca", {"detectable_format:number_bullet_lists": {"num_bullets": 1}}),
    ("upper b", {"keywords:existence": {"keywords": ["B"]}, "punctuation:no_comma": {}}),
]
ANSWERS = ["Sure:\nall is lower case here", "* ac", "b, and no more"]
# Strict: no comma and not all lower; one bullet; the word and a comma.
STRICT = [[True, False], [True], [True, False]]
LOOSE = [[True, True], [True], [True, False]]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {
            "key": key,
            "prompt": text,
            "instruction_id_list": list(constraints),
            "kwargs": [{"relation": None, **arguments} for arguments in constraints.values()],
        }
        for key, (text, constraints) in enumerate(PROMPTS)
    ]
    return write_lines(tmp_path / "prompts.jsonl", rows)


@pytest.fixture
def words(prompts, tmp_path):
    """The command line of ready answers."""
    rows = [
        {"prompt": prompt, "response": answer}
        for (prompt, _), answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    ours = write_lines(tmp_path / "ours.jsonl", rows)
    return [f"run={ours}", "eval=ifeval", f"eval.data={prompts}", f"runs_root={tmp_path / 'runs'}"]


def read_folder(folder):
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), rows


def test_ready_answers_are_checked_without_a_base_or_a_judge(words, tmp_path, capsys):
    main(words)
    out = capsys.readouterr().out
    (folder,) = (tmp_path / "runs" / "eval").glob("*/eval/ifeval")
    results, rows = read_folder(folder)
    assert [row["prompt"] for row in rows] == [prompt for prompt, _ in PROMPTS]
    assert [row["followed_strict"] for row in rows] == STRICT
    assert [row["followed_loose"] for row in rows] == LOOSE
    assert [row["answer"] for row in rows] == ANSWERS
    assert results["prompt_strict"] == pytest.approx(100 / 3)
    assert results["instruction_strict"] == pytest.approx(60)
    assert results["prompt_loose"] == pytest.approx(200 / 3)
    assert results["instruction_loose"] == pytest.approx(80)
    assert results["mean_strict"] == pytest.approx((100 / 3 + 60) / 2)
    # Std of 1, 0, 0 with ddof 1 is 1/sqrt(3), over sqrt(3).
    assert results["standard_error"]["prompt_strict"] == pytest.approx(100 / 3)
    no_comma = results["by_kind"]["punctuation:no_comma"]
    assert no_comma == {"n": 2, "n_missing": 0, "followed_strict": 50.0, "followed_loose": 50.0}
    assert results["baseline"] is None and results["difference"] == {}
    assert "prompt_strict       33.33  33.33" in out and "punctuation:no_comma" in out


def test_the_other_columns_and_another_side_do_as_well(words, tmp_path):
    rows = [{"instruction": prompt, "output": ""} for prompt, _ in PROMPTS]
    silent = write_lines(tmp_path / "silent.jsonl", rows)
    results = evaluate(read_settings([*words, f"baseline={silent}"]))
    assert results["base_prompt_strict"] == 0 and results["prompt_strict"] == pytest.approx(100 / 3)
    found = results["difference"]["instruction_strict"]
    assert found["difference"] == pytest.approx(60) and found["n"] == 5
    assert found["low"] < 60 < found["high"]
    assert results["n_empty"] == 0
    turned = [f"run={silent}", f"baseline={words[0].removeprefix('run=')}", *words[1:]]
    assert evaluate(read_settings(turned))["n_empty"] == 3


def test_first_takes_the_first_prompts(words, tmp_path):
    results = evaluate(read_settings([*words, "first=1"]))
    assert (results["n_prompts"], results["n_verdicts"]) == (1, 2)
    assert results["instruction_strict"] == 50
    evaluate(read_settings(words))
    (folder,) = (tmp_path / "runs" / "eval").glob("*/eval/ifeval")
    assert read_folder(folder / "earlier-1")[0]["n_prompts"] == 1
    assert read_folder(folder)[0]["n_prompts"] == 3


def test_a_kind_can_be_left_out_with_the_prompts_that_have_it(words):
    results = evaluate(read_settings([*words, "eval.leave_out=[punctuation:no_comma]"]))
    assert list(results["by_kind"]) == ["detectable_format:number_bullet_lists"]


def test_a_prompt_that_differs_in_a_character_is_refused_or_taken_by_a_flag(
    words, tmp_path, capsys
):
    ours = Path(words[0].removeprefix("run="))
    long = "write a long letter to the village about the rain in may"
    data = Path(words[2].removeprefix("eval.data="))
    data.write_text(data.read_text().replace("copy ab", long))
    ours.write_text(ours.read_text().replace("copy ab", long.replace("may", "June")))
    with pytest.raises(RunError) as caught:
        evaluate(read_settings(words))
    assert str(caught.value) == (
        f"{ours} has no answer to 1 of 3 instructions, for instance {long!r}; it has one that is"
        " nearly the same: from character 53 on 'may', and there 'June'. Mend the file, or take"
        " it: benchmark.nearest=true"
    )
    capsys.readouterr()
    results = evaluate(read_settings([*words, "eval.nearest=true"]))
    assert results["instruction_strict"] == pytest.approx(60)
    assert "no answer to 'write a long" in capsys.readouterr().err
    ours.write_text(ours.read_text().replace(long.replace("may", "June"), "something else"))
    with pytest.raises(RunError, match="it is of another benchmark or not complete"):
        evaluate(read_settings([*words, "eval.nearest=true"]))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("punctuation:no_comma", "punctuation:no_dot", "no checker knows the kind 'punctuation:no"),
        ('"num_bullets": 1', '"bullets": 1', "unexpected keyword argument 'bullets'"),
        ('"num_bullets": 1', '"num_bullets": null', "it lacks num_bullets"),
        ('"kwargs": [', '"kwargs": [3, ', "'kwargs' must be a list of an object for each kind"),
        ('"instruction_id_list": [', '"instruction_id_list": [3, ', "must be a list of kinds"),
        ('"prompt"', '"prompts"', "line 1 has no column 'prompt'; it has"),
    ],
)
def test_prompts_that_cannot_be_checked_are_refused_by_name(words, old, new, says):
    data = Path(words[2].removeprefix("eval.data="))
    data.write_text(data.read_text().replace(old, new))
    with pytest.raises(RunError, match=says):
        evaluate(read_settings([*words, "dry_run=true"]))


def test_a_kind_that_lacks_data_is_refused_with_both_ways_out(words, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    data = Path(words[2].removeprefix("eval.data="))
    changed = data.read_text().replace("punctuation:no_comma", "words:start_verb")
    data.write_text(changed)
    with pytest.raises(RunError) as caught:
        evaluate(read_settings(words))
    assert "python -m nltk.downloader averaged_perceptron_tagger_eng" in str(caught.value)
    assert "'benchmark.leave_out=[words:start_verb]'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["control=true"], "control=True: compares by a judge. Leave it out: ifeval has none"),
        (["judge=gpt4o"], "judge: benchmark=ifeval asks no judge. Leave it out"),
        (["benchmark=pocket"], "eval=ifeval and benchmark=pocket: name one setting, with two"),
        (["benchmark.data=x"], "and benchmark.data=x: name one setting, with two values"),
        (["first=0"], "first=0: must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, change, says):
    with pytest.raises(ConfigError, match=says):
        read_settings([*words, *change])


def test_both_spellings_may_say_the_same(words):
    assert read_settings([*words, "benchmark=ifeval"]).benchmark.name == "ifeval"


def test_a_run_is_checked_beside_its_base(small_run, prompts, tmp_path, capsys):
    run = shutil.copytree(small_run[0], tmp_path / "runs" / "run")
    words = [
        f"run={run}", "eval=ifeval", f"eval.data={prompts}", "eval.max_new_tokens=4",
        f"runs_root={tmp_path / 'runs'}", "dtype=float32", "date_string=null",
    ]  # fmt: skip
    main([*words, "dry_run=true"])
    assert "3 prompts, 5 verdicts on each side; no calls, no cost" in capsys.readouterr().out
    main(words)
    results, rows = read_folder(run / "eval" / "ifeval")
    assert results["baseline"] == "pocket"
    assert all(
        {"answer", "base_answer", "followed_strict", "base_followed_strict"} <= set(row)
        for row in rows
    )
    for name in ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose"):
        expected = results[name] - results[f"base_{name}"]
        assert results["difference"][name]["difference"] == pytest.approx(expected)
    out = capsys.readouterr().out
    assert "against pocket" in out and "difference" in out


def test_an_evaluation_of_a_tracked_run_is_a_wandb_run(small, prompts, tmp_path, wandb_stub):
    run = tmp_path / "runs" / "tracked"
    trained = [*small, "tracker.mode=online", f"run_dir={run}", "num_steps=1"]
    checked = [
        f"run={run}", "eval=ifeval", f"eval.data={prompts}", "eval.max_new_tokens=4",
        f"runs_root={tmp_path / 'runs'}", "dtype=float32", "date_string=null",
    ]  # fmt: skip
    code = (
        "import json, sys\nfrom eval.__main__ import main\nfrom lsp.loop.launch import start\n"
        "trained, checked = map(json.loads, sys.argv[1:])\nstart(trained)\nmain(checked)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(trained), json.dumps(checked)],
        cwd=ROOT,
        env={**os.environ, **wandb_stub.environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    results, rows = read_folder(run / "eval" / "ifeval")
    runs = {logged.job_type: logged for logged in wandb_stub.runs.values()}
    evaluation = runs["evaluation"]
    assert evaluation.summary["eval/ifeval/prompt_strict"] == results["prompt_strict"]
    assert evaluation.summary["eval/ifeval/pairs"]["nrows"] == len(rows) == 3
    assert evaluation.uses == [f"model-{runs['train'].name}:v0"]


def test_two_evaluated_runs_are_compared_prompt_by_prompt(small_run, words, tmp_path, capsys):
    """Ready answers in the place of those that two runs wrote."""
    for name, answers in (("one", ANSWERS), ("other", ["a, B", "* c", "a, B"])):
        run = shutil.copytree(small_run[0], tmp_path / "runs" / name)
        rows = [
            {"instruction": prompt, "output": answer}
            for (prompt, _), answer in zip(PROMPTS, answers, strict=True)
        ]
        ready = write_lines(tmp_path / f"{name}.jsonl", rows)
        evaluate(read_settings([*words, f"run={ready}"]))
        (folder,) = (tmp_path / "runs" / "eval").glob(f"*-{name}/eval/ifeval")
        shutil.copytree(folder, run / "eval" / "ifeval")
    options = ["benchmark=ifeval", f"runs_root={tmp_path / 'runs'}"]
    capsys.readouterr()
    compare(["one", "other", *options])
    out = capsys.readouterr().out
    # Strictly 3 and 2 of 5 constraints are followed, the difference is one prompt's.
    assert "one minus" in out and "instruction_strict" in out and "+20.00" in out
    place = tmp_path / "runs" / "other" / "eval" / "ifeval" / "results.json"
    place.write_text(place.read_text().replace('"max_new_tokens": 1280', '"max_new_tokens": 9'))
    with pytest.raises(SystemExit, match="side by side: max_new_tokens is 1280 and 9"):
        compare(["one", "other", *options])


def test_gpt4_s_published_numbers_come_out_of_the_command(tmp_path):
    if not IFEVAL.is_dir():
        pytest.skip("IFEval's files lie in ../shared/ifeval, which is absent")
    answers = tmp_path / "gpt4.jsonl"
    answers.write_bytes(gzip.decompress((IFEVAL / "gpt4_responses.jsonl.gz").read_bytes()))
    data = f"eval.data={IFEVAL / 'input_data.jsonl'}"
    words = [f"run={answers}", "eval=ifeval", data, f"runs_root={tmp_path}"]
    with pytest.raises(RunError, match="'3 placeholders .*, and there 'one placeholder "):
        evaluate(read_settings(words))
    results = evaluate(read_settings([*words, "eval.nearest=true"]))
    names = ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")
    assert [f"{results[name]:.2f}" for name in names] == ["76.89", "83.57", "79.30", "85.37"]
