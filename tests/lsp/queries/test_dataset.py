"""Queries from a data set: those of a step, and instructions from a file."""

import json
import sys
from types import SimpleNamespace

import pytest

from lsp.contracts import BuildContext
from lsp.errors import RunError
from lsp.queries.dataset import InstructionQueries, step_queries
from lsp.settings.compose import compose


def test_step_queries_go_through_an_epoch_without_replacement():
    queries = [f"q{i}" for i in range(10)]
    drawn = [q for step in range(5) for q in step_queries(queries, 4, seed=3, step=step)]
    assert sorted(drawn[:10]) == sorted(queries) == sorted(drawn[10:])
    assert drawn[:10] != drawn[10:]
    assert step_queries(queries, 4, 3, 2) == drawn[8:12]
    assert step_queries(queries, 4, 4, 2) != drawn[8:12]
    assert len(step_queries(queries, 25, 0, 0)) == 25


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_instructions_from_a_local_file(tmp_path, ending):
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "blue"},
        {"instruction": "Translate.", "input": "chat", "output": "cat"},
        {"instruction": "Count.", "input": "<noinput>"},
    ]
    path = tmp_path / f"data.{ending}"
    text = json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(text)
    assert InstructionQueries(path=str(path), split="train").build(BuildContext(None)) == [
        "Name a colour.",
        "Translate.\n\nchat",
        "Count.",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"prompt": "x"}\n', "line 1 has no column 'instruction'; it has 'prompt'"),
        (
            '{"instruction": "x"}\n{"instruction": null}\n',
            "line 2: 'instruction' is null, and must",
        ),
        ('{"instruction": 5}\n', "line 1: 'instruction' is the number 5, and must be text"),
        ('{"instruction": " "}\n', "line 1: 'instruction' is empty"),
        ('{"instruction": "x", "input": ["y"]}\n', "line 1: 'input' is a list, and must be text"),
        ('{"messages": [{"role": "user"}]}\n', "a column of messages is not read"),
        ("[1]\n", "line 1 is a list, and must be an object"),
        ("not json", "line 1 is not valid JSON"),
        ("", "holds no instruction"),
    ],
)
def test_bad_instruction_files(tmp_path, text, says):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=f"data.jsonl.*{says}"):
        InstructionQueries(path=str(path), split="train").build(BuildContext(None))


@pytest.fixture
def hub(monkeypatch):
    """Names that were asked of a Hub, which knows one data set."""
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name != "some/known":
            raise FileNotFoundError(f"there is no {name}")
        return [{"instruction": "from the Hub"}, {"instruction": None}][
            : 2 if split == "bad" else 1
        ]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_what_is_here_never_goes_to_the_hub(tmp_path, monkeypatch, hub):
    """Nor what can only be meant to be here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "known").write_text("x")
    names = ["some/known", "gone.parquet", "gone.csv", "gone.jsonl.gz", "./gone", "~/gone/away"]
    for name in names:
        queries = InstructionQueries(path=name, split="train")
        ((reason, fix),) = queries.problems(compose(["method=grpo"]))
        assert "there is no file" in reason or "some/known ends in none of" in reason
        assert fix.startswith("give data.path=")
        assert queries.problems(compose([])) == []  # a Challenger asks; no file is looked at
        with pytest.raises(RunError, match="there is no file|ends in none of"):
            queries.build(BuildContext(None))
    assert hub == []


def test_what_is_not_here_is_asked_of_the_hub(hub):
    def build(name, split):
        return InstructionQueries(path=name, split=split).build(BuildContext(None))

    assert build("some/known", "train") == ["from the Hub"] and hub == [("some/known", "train")]
    with pytest.raises(RunError, match="some/known, row 2: 'instruction' is null"):
        build("some/known", "bad")
    with pytest.raises(
        RunError, match="some/other is no file here, and cannot be had .*no some/oth"
    ):
        build("some/other", "train")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        RunError, match="is no file here, and reading it from the Hub needs the extra"
    ):
        InstructionQueries(path="some/known", split="train").build(BuildContext(None))
