"""The page of several runs: what it holds, what hostile text does there, and the command."""

import json
import re
import shutil
from urllib.parse import unquote

import browser
import pytest

from lsp.errors import RunError
from lsp.files import write_json_lines
from lsp.report.__main__ import main
from lsp.report.comparison_page import render, write_comparison
from lsp.report.record import read_records
from lsp.run.folder import update_run
from lsp.tracking.reader import HELD_OUT, read_trace

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='hacked=1'>\u202eabc\x00{{ 7 }}"
)
OTHER = {"method": {"beta": 0.3}}


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


@pytest.fixture
def two(scored_run):
    return [scored_run("a", [0.4, 0.5, 0.6]), scored_run("b", [0.5, 0.7, 0.9], **OTHER)]


def test_outcome_and_interval_stand_before_everything_else(two, tmp_path):
    page = render(read_records(two), tmp_path)
    parts = (
        '<p class="verdict">No difference is shown between B and A: exact accuracy 0.700 against',
        "-0.048 to +0.448",
        "not between their methods",
        "a says 0",
        "<code>method.beta</code>",
        'id="controls"',
        "External reward R",
    )
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    # The interval's picture: from -0.048 to 0.448 of ±0.448, in 200 units about 100.
    assert '<line class="reach" x1="89.2' in page and 'x2="200.0"' in page


def test_the_game_of_each_run_is_there_at_the_steps_that_all_have(two, add_step, tmp_path):
    add_step(two[1], 4, [dict(query_id="q", query="copy a", answer="a")])
    data = data_of(render(read_records(two), tmp_path))
    assert data["steps"] == [1, 2, 3] and data["whole"]
    assert [run["name"] for run in data["runs"]] == ["A: a", "B: b"]
    rows = [row for row in read_trace(two[0], [2]) if row["answer"] is not None]
    (plays,) = [run["plays"][1] for run in data["runs"][:1]]
    shown = [
        (data["texts"][query["text"]], data["texts"][text], reward)
        for query in plays
        for text, reward, times, _ in query["answers"]
        for _ in range(times)
    ]
    assert sorted(shown) == sorted((r["query"], r["answer"], r["reward"]) for r in rows)


def test_rewards_of_other_settings_have_axes_of_their_own_and_the_page_says_why(two, scored_run):
    common = render(read_records(two), two[0].parent)
    assert "Not on common axes" not in common
    quiet = scored_run("c", [0.5, 0.5, 0.5], method={"self_reward_weight": 0.0})
    page = render(read_records([two[0], quiet]), two[0].parent)
    assert (
        "Not on common axes: another quantity in each, by method.self_reward_weight (A: 0.3; B:"
        " 0.0)." in page
    )
    drawn = page.replace("\n", "")
    for title in ("Solver&#39;s reward, A over", "Solver&#39;s reward, B over"):
        assert title in drawn
    assert 'aria-label="External reward R over steps 1 to 3: A from' in drawn


def test_links_lead_to_the_reports_from_wherever_the_page_lies(two, tmp_path):
    home = tmp_path / "pages"
    home.mkdir()
    path = write_comparison(read_records(two), home / "x.html")
    links = re.findall(r'href="([^#"]+)"', re.sub(r"xlink:href", "", path.read_text()))
    assert [(home / unquote(link)).resolve() for link in links] == [
        folder / "report.html" for folder in two
    ]
    (two[0] / "report.html").unlink()
    assert render(read_records(two), home).count('report.html"') == 1


def test_hostile_text_makes_no_element(two, add_step, edit_settings, tmp_path):
    before = browser.Elements(render(read_records(two), tmp_path))
    for folder in two:
        add_step(folder, 4, [dict(query_id="q", query=HOSTILE, answer=HOSTILE * 2)])
    edit_settings(two[1], objective=HOSTILE)
    update_run(two[0], id="<b>a", evaluation={"name": "pocket", "labels": {"accuracy": HOSTILE}})
    row = dict(prompt=HOSTILE, right_answer=HOSTILE, weight=0.5, base_score=0.0,
               trained_score=0.5, base=HOSTILE, trained=HOSTILE)  # fmt: skip
    for folder in two:
        write_json_lines(folder / HELD_OUT, [row, row | {"trained_score": 0.25}])
    after = render(read_records(two), tmp_path)
    elements = browser.Elements(after)
    assert elements.names == before.names and elements.handlers == before.handlers == 0
    assert not any(character in after for character in "\x00\x1b\u202e\u2028")
    assert "{{ 7 }}" in after and after.count("<script>") == 1


def test_the_policy_names_the_one_script_and_the_one_style(two, tmp_path):
    page = render(read_records(two), tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src &#39;none&#39;;") and "unsafe" not in policy
    assert "style=" not in page and len(re.findall("<style>", page)) == 1


def test_a_benchmark_that_all_were_evaluated_on_is_named_with_the_command(two, tmp_path):
    for folder, names in zip(two, (("ifeval", "pocket"), ("pocket",)), strict=True):
        for name in names:
            (folder / "eval" / name).mkdir(parents=True)
            (folder / "eval" / name / "results.json").write_text("{}")
    page = render(read_records(two), tmp_path)
    assert "python -m eval.compare RUN RUN benchmark=pocket" in page and "ifeval" not in page


def test_the_command_writes_a_comparison_here(two, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["a", "b", f"runs_root={tmp_path}"])
    assert capsys.readouterr().out == "comparison.html\n"
    assert "runs compared" in (tmp_path / "comparison.html").read_text()


def test_what_is_no_comparison_is_refused(two, tmp_path, edit_json):
    with pytest.raises(RunError, match="which run\\? lsp report"):
        main([])
    with pytest.raises(
        RunError, match="are one run, .*/a; to compare, name two or more: lsp report"
    ):
        main([str(two[0]), str(two[0])])
    with pytest.raises(RunError, match="there is no run 'gone', neither as a folder nor as an id"):
        main([str(two[0]), "gone", f"runs_root={tmp_path}"])
    edit_json(two[1] / "run.json", world="instructions")
    reason = "rewards have different scales and cannot be compared; make a report of each"
    with pytest.raises(RunError, match=f"is of world=.* and .*{reason}"):
        main([str(folder) for folder in two])


def test_a_damaged_line_of_scores_is_one_word(two):
    (two[0] / HELD_OUT).write_text('{"prompt": 3}\n')
    with pytest.raises(RunError, match="held_out.jsonl, line 1: "):
        main([str(folder) for folder in two])


def test_a_run_that_is_going_on_is_shown_beside_a_finished_one(two, tmp_path):
    shutil.rmtree(two[1] / "checkpoints")
    update_run(two[1], status="interrupted", reason="SIGTERM")
    page = render(read_records(two), tmp_path)
    assert "No outcome: no two of these runs can be compared." in page
    assert "B has no scores of held-out prompts: Interrupted after step 3 of 3 (SIGTERM)" in page
    assert 'id="controls"' in page and "External reward R" in page
