"""One step's plays in the terminal."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from lsp.errors import RunError
from lsp.report.record import read_record
from lsp.show import main, show
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace


def test_a_step_is_shown_the_best_query_first(small_run, capsys):
    folder, _ = small_run
    main([str(folder), "step=2", "answers=1"])
    answers = {(r["query_id"], r["answer"], r["reward"]) for r in read_trace(folder, [2])}
    several = Counter(query for query, answer, _ in answers if answer is not None)
    out = capsys.readouterr().out
    rows = read_trace(folder, [2])
    best = max(
        (r for r in rows if r["answer"] is not None), key=lambda r: r["challenger_advantage"]
    )
    assert out.splitlines()[1].startswith("Finished: 3 steps in ")
    assert out.splitlines()[3] == f"? {best['query']}"
    assert f"advantage {best['challenger_advantage']:+.3f}" in out.splitlines()[4]
    for count in (2, 3):  # equal ones are folded
        more = f"… and {count - 1} more answers"
        assert out.count(more) == list(several.values()).count(count)


def test_the_last_step_unless_told_and_a_filter(small_run):
    record = read_record(small_run[0])
    head = show(record, None, "", 2, 80)[0]
    assert ", step 3 of 3: 4 of 4 queries" in head
    assert "0 of 4 queries" in show(record, None, "nothing holds this", 2, 80)[0]


def test_hostile_text_does_nothing_to_the_terminal(small_run, tmp_path):
    folder = Path(shutil.copytree(small_run[0], tmp_path / "run"))
    like = read_trace(folder, [3])[0]
    text = "\x1b[2J\x1b]0;title\x07" + "a" * 10**6 + "\u202e\nsecond line"
    LocalTracker(folder).log(4, {}, [like | {"step": 4, "query": text, "answer": text[::-1]}])
    lines = show(read_record(folder), 4, "", 2, 40)
    assert not any(c in line for line in lines for c in "\x1b\x07\u202e\n")
    assert lines[3].startswith("? ␛[2J␛]0;title␇") and len(lines) < 500


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "show takes one run, and these are 0"),
        (["nowhere"], "there is no run 'nowhere'"),
        (["RUN", "step=9"], "has no step 9; it has"),
    ],
)
def test_what_is_not_there(small_run, arguments, says):
    arguments = [str(small_run[0]) if a == "RUN" else a for a in arguments]
    with pytest.raises(RunError, match=says):
        main(arguments)
