"""The command line of ``python -m eval``: what its words mean."""

import pytest

from eval.settings import in_todays_words, read_settings
from lsp.errors import ConfigError


def test_the_earlier_spelling_of_the_benchmark_is_read_and_said(capsys):
    old = ["run=a.json", "eval=pocket", "eval.per_cell=3", "+eval.name=mine", "judge.eval=x"]
    new = ["run=a.json", "benchmark=pocket", "benchmark.per_cell=3", "+benchmark.name=mine"]
    assert in_todays_words(old) == [*new, "judge.eval=x"]
    assert capsys.readouterr().err == (
        "eval=pocket eval.per_cell=3 +eval.name=mine is read as"
        " benchmark=pocket benchmark.per_cell=3 +benchmark.name=mine\n"
    )
    assert in_todays_words(["evaluate=1", *new]) == ["evaluate=1", *new]
    assert capsys.readouterr().err == ""
    config = read_settings(["run=a.json", "eval=pocket", "eval.per_cell=3"])
    assert (config.benchmark.name, config.benchmark.per_cell) == ("pocket", 3)
    assert capsys.readouterr().err.startswith("eval=pocket eval.per_cell=3 is read as")


def test_no_setting_holds_a_secret():
    with pytest.raises(ConfigError, match="looks like a secret. Keys come from") as caught:
        read_settings(["run='https://me:pass-word@host/answers.json'"])
    assert "run: holds" in str(caught.value) and "pass-word" not in str(caught.value)


def test_a_benchmark_that_is_not_there_is_named_with_its_folder():
    with pytest.raises(ConfigError) as caught:
        read_settings(["run=a.json", "benchmark=pockett"])
    assert str(caught.value.problems[0]) == (
        "benchmark=pockett: there is no conf/evaluate/benchmark/pockett.yaml. Did you mean"
        " benchmark=pocket."
    )


def test_the_judge_of_the_paper_s_third_version_is_a_server_s_model():
    judge = read_settings(["run=a.json", "judge=llama4_maverick"]).judge
    assert judge.model == "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8"
    assert (judge.base_url, judge.key_variable) == ("http://localhost:8000/v1", None)
    elsewhere = ["run=a.json", "judge=llama4_maverick", "judge.base_url=http://host:9/v1"]
    assert read_settings([*elsewhere, "judge.model=maverick"]).judge.url == "http://host:9/v1"


def test_first_does_not_go_with_tables_of_all_instructions():
    words = ["run=a.json", "first=3"]
    assert read_settings(words).first == 3
    with pytest.raises(
        ConfigError, match="are of all instructions.*Leave out first, or the tables"
    ):
        read_settings([*words, "benchmark.gamed=table.csv"])
    with pytest.raises(ConfigError, match="first=3: is not judge_check's"):
        read_settings(["benchmark=judge_check", "judge=compatible", "judge.model=m", "first=3"])
