"""Queries from a data set: those of a step, and instructions from a file."""

import json

import pytest

from lsp.contracts import BuildContext
from lsp.queries.dataset import InstructionQueries, step_queries


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
        ('{"prompt": "x"}\n', "row 0 has no text column 'instruction'; it has \\['prompt'\\]"),
        ("[1]\n", "row 0 has no text column 'instruction'"),
        ("not json", "is not valid JSON"),
        ("", "holds no instruction"),
    ],
)
def test_bad_instruction_files(tmp_path, text, says):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        InstructionQueries(path=str(path), split="train").build(BuildContext(None))
