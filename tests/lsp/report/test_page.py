"""The page of a report: what it holds, and the command that writes it."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import browser
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.pocket.world import PocketWorld
from lsp.report.__main__ import main
from lsp.report.curves import PANELS
from lsp.report.page import render
from lsp.report.record import read_record
from lsp.run.folder import read_run, update_run
from lsp.tools.text import page_json
from lsp.tracking.reader import EXAMPLES, MANIFEST, read_examples, read_trace

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    '"><svg onload=window.hacked=1>',
    "\u202egnirts\u202c\x00\x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "_private \u2028 & &lt;",
)


def words_of(page):
    """What is read of a page: its text without tags, in one line."""
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(unescape(text).split())


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


def test_the_page_holds_every_row_of_a_pocket_run(small_run):
    folder, _ = small_run
    page = render(read_record(folder))
    data = data_of(page)
    game = data["game"]
    rows = read_trace(folder)
    answers = [
        (game["steps"][i], data["texts"][query[2]], data["texts"][answer[0]], answer[1])
        for i, queries in enumerate(game["plays"])
        for query in queries
        for answer in query[10]
        for _ in range(answer[7])  # equal ones are folded
    ]
    played = [r for r in rows if r["answer"] is not None]
    assert sorted(answers) == sorted(
        (r["step"], r["query"], r["answer"], float(f"{r['reward']:.4g}")) for r in played
    )
    assert game["note"] == f"All {len(rows)} rows of 3 steps."
    for queries in game["plays"]:
        advantages = [query[7] for query in queries if query[7] is not None]
        assert advantages == sorted(advantages, reverse=True)


def test_a_run_ends_with_its_report(small_run):
    folder, _ = small_run
    page = (folder / "report.html").read_text()
    examples = read_examples(folder)
    assert len(examples) == 3 and "Prompts that it was not trained on" in page
    for example in examples:
        assert PocketWorld().right_answer(example.prompt) == example.right_answer
        assert f'<p class="text" dir="auto">{example.prompt}</p>' in page
    assert "Finished: 3 steps" in page and "its base: greedy win rate" in words_of(page)
    assert json.loads((folder / "run.json").read_text())["git_commit"] in page
    # Settings that were given are listed beside their defaults.
    assert re.search(r"num_steps</code></th><td><code>150</code></td><td><code>3</code>", page)
    for title in (*PANELS, "Exact accuracy, dev split"):
        assert f"<figcaption>{title}</figcaption>" in re.sub(r"</?a\b[^>]*>", "", page), title


def test_the_policy_names_the_one_script_and_the_one_style(small_run):
    import base64
    import hashlib

    page = render(read_record(small_run[0]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src &#39;none&#39;;") and "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy
    assert "style=" not in page and "http-equiv" in page
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "href"))


def test_hostile_text_makes_no_element(run, add_step, edit_settings):
    before = browser.Elements(render(read_record(run)))
    rows = [
        dict(query_id=f"q{i}", query=text, answer_id=f"q{i}-a0", answer=text + "x" * 10**6)
        for i, text in enumerate(HOSTILE)
    ]
    add_step(run, 4, rows)
    text = " ".join(HOSTILE)
    update_run(run, command=text, git_commit=text)
    edit_settings(run, run_name=text, objective=text)
    (run / "alerts.jsonl").write_text(json.dumps({"step": 1, "text": text}) + "\n")
    after = render(read_record(run))
    elements = browser.Elements(after)
    assert elements.names == before.names and elements.handlers == before.handlers == 0
    assert not any(character in after for character in "\x00\x1b\u202e\u2028")
    assert "{{ 7 * 7 }}" in after and len(after) < 10**7
    # Cut at 20,000 characters, the rest counted.
    assert any("characters more)" in text for text in data_of(after)["texts"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_in_the_page_reads_back_and_ends_nothing(text):
    written = page_json([text])
    assert json.loads(written) == [text]
    assert not set("<>&\u2028\u2029") & set(written)


def test_rules_of_an_answer_are_ticks_and_crosses(run, add_step, edit_settings, edit_json):
    edit_json(run / "run.json", world="instructions")
    edit_settings(run, world={"_target_": "lsp.instructions.world.InstructionsWorld"})
    query = "Greet me. Do not use any commas. Use fewer than 10 words."
    (run / EXAMPLES).write_text(
        json.dumps([{"prompt": query, "right_answer": None, "base": "A, b", "trained": "Hello"}])
    )
    add_step(run, 4, [dict(query_id="q0", query=query, answer="Hello, you")] * 3)
    page = render(read_record(run))
    assert "✗ no comma  ✓ number words" in data_of(page)["texts"]
    assert "A, b</dd><dd><small>✗ no comma  ✓ number words</small>" in page
    assert "Hello</dd><dd><small>✓ no comma  ✓ number words</small>" in page
    assert "right answer</dt>" not in page


def test_damaged_examples_are_one_word(run):
    (run / EXAMPLES).write_text('[{"prompt": 3}]')
    with pytest.raises(RunError, match="examples.json cannot be read"):
        read_record(run)


def test_free_text_is_shown_by_words_and_openings(run, add_step, edit_settings):
    """A world other than the pocket one; hostile openings become labels of a drawing."""
    edit_settings(run, world="paper")
    add_step(run, 4, [dict(query_id=f"q{i}", query=t, answer="a") for i, t in enumerate(HOSTILE)])
    page = render(read_record(run))
    assert "by number of words" in page and "by first two words" in page
    assert "true rubric" not in page


def test_a_diverged_run_has_its_report(run, add_step):
    nan = float("nan")
    add_step(run, 4, [dict(query_id="q", query="copy a", answer="a", reward=nan, query_value=nan,
                           challenger_advantage=nan, solver_advantage=nan)])  # fmt: skip
    page = render(read_record(run))
    assert data_of(page)["game"]["plays"][3][0][5] is None and "NaN" not in page


def test_a_cross_play_is_in_the_report_of_its_run(run):
    assert 'id="crossplay"' not in render(read_record(run))
    (run / "crossplay").mkdir()
    head = (
        "challenger,solver,queries,played,illegal_frac,reward_mean,reward_se,accuracy,accuracy_se"
    )
    lines = ["base,base,8,6,0.25,0.625,0.1,,", "base,step-000003,8,6,0.25,,,,"]
    (run / "crossplay" / "crossplay.csv").write_text("\n".join([head, *lines]) + "\n")
    page = render(read_record(run))
    assert "base asks base: 0.62" in page and "asks step-000003" not in page
    assert "<image" not in page and ">base (25% illegal)</text>" in page.replace("\n", "")


def command(*arguments):
    with pytest.raises(RunError) as stop:
        main([str(argument) for argument in arguments])
    return str(stop.value)


def test_the_command_writes_where_it_says(run, capsys):
    out = run.parent / "x.html"
    main([str(run), f"out={out}"])
    assert capsys.readouterr().out.strip() == str(out) and out.stat().st_size > 10_000
    assert "cannot be written" in command(run, f"out={run.parent}/none/x.html")
    for other in (run, "/dev/zero"):  # a rename would replace the device
        assert "is there and is no file" in command(run, f"out={other}")


def test_bad_input_gets_one_clear_word(run, tmp_path, edit_json):
    assert "which run?" in command()
    assert "there is no run 'nowhere'" in command("nowhere")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    edit_json(other / "run.json", world="paper")
    assert "have different scales and cannot be compared" in command(run, other)
    empty = Path(shutil.copytree(run, tmp_path / "empty"))
    shutil.rmtree(empty / "trace")
    assert "no recorded step yet" in command(empty)
    old = Path(shutil.copytree(run, tmp_path / "old"))
    (old / MANIFEST).unlink()  # which an older version did not write
    for shard in (old / "trace").iterdir():
        pq.write_table(pq.read_table(shard).drop_columns(["solver_advantage"]), shard)
    said = command(old)
    assert "its trace has no column solver_advantage" in said and "another version" in said
    (run / "config.yaml").write_text("world: pocket\n")
    assert "config.yaml has no" in command(run)


def test_a_damaged_step_is_left_out_and_said(run):
    shard = run / "trace" / "step-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:200])
    record = read_record(run)
    damage = "The record is damaged: step 2 has another shard in trace/ than was written"
    assert record.steps == [1, 3] and record.warnings == (damage,)
    assert damage in render(record)


def test_damaged_records_get_one_clear_word(run, tmp_path):
    def damaged(change):
        folder = Path(shutil.copytree(run, tmp_path / f"damaged{len(list(tmp_path.iterdir()))}"))
        change(folder)
        return command(folder)

    assert "cannot be read" in damaged(lambda folder: update_run(folder, init="base"))
    (run / "crossplay").mkdir()
    (run / "crossplay" / "crossplay.csv").write_text("challenger,solver\nbase,base\n")
    assert "a run's record cannot be read" in command(run)


def test_a_report_that_fails_loses_no_run(small, tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lsp.report.page.write_report", broken)
    summary = start([*small, "num_steps=1", "tracker=none", f"run_dir={tmp_path / 'run'}"])
    assert summary["status"] == "finished" and read_run(tmp_path / "run")["status"] == "finished"
    out = capsys.readouterr().out
    assert "report   not written (OSError: [Errno 28]" in out and "python -m lsp.report" in out


def test_a_run_that_went_on_and_was_killed_shows_no_old_summary(run):
    assert "its base: greedy win rate" in words_of(render(read_record(run)))
    update_run(run, status="running")
    page = words_of(render(read_record(run)))
    assert "win rate" not in page and "trained ✗ wrong" not in page
    assert "On the dev split, from step 0 to step 3: exact accuracy" in page


def test_a_report_needs_no_torch(small_run, tmp_path):
    """It is looked at over ssh, on a machine with a small quota: a second, not ten."""
    code = "import sys; from lsp.report.__main__ import main; main(sys.argv[1:]);"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_run[0]), f"out={tmp_path}/x.html"],
        capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_step_1_found_stands_before_the_numbers(small_run, tmp_path):
    """In plain words, the ones that say that the game is not played in the colour of alarms."""
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    found = [
        {"text": "6 of 8 queries were cut", "mend": "prompts=few_shot", "stops": True},
        {"text": HOSTILE[0], "mend": "nothing", "stops": False},
    ]
    update_run(folder, findings=found)
    page = render(read_record(folder))
    first = '<p class="alarm">Finding at step 1: 6 of 8 queries were cut; prompts=few_shot</p>'
    second = '<p class="finding">Finding at step 1: &lt;/script&gt;&lt;script&gt;window.hacked=1'
    assert page.index(first) < page.index(second) < page.index('<div class="tiles">')


def test_the_order_of_what_is_seen_first(small_run, tmp_path):
    """Verdict, what it holds under, why the run stopped, alarms, numbers, examples, river, lights;
    then the game."""
    folder = shutil.copytree(small_run[0], tmp_path / "run")
    (folder / "alerts.jsonl").write_text('{"step": 2, "text": "entropy/challenger fell"}\n')
    page = words_of(render(read_record(folder)))
    places = [
        page.index(words)
        for words in (
            "its base: greedy win rate", "That is of this one run", "Alarm at step 2",
            "exact accuracy0.", "greedy win rate over the base", "Prompts that it was not",
            "The Challenger's queries by family", "Did the game collapse? 1 of 9", "Filter",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    update_run(folder, status="stopped", reason="max_usd was reached")
    page = render(read_record(folder))
    reason = '<p class="finding">Stopped after step 3 of 3 (max_usd was reached); go on with'
    assert 'class="verdict"' in page[: page.index(reason)]
    assert page.index(reason) < page.index("Alarm at step 2")


def test_where_a_data_set_asked_there_is_no_river(run, edit_settings):
    edit_settings(run, method={"queries": "dataset"})
    page = render(read_record(run))
    assert 'class="river"' not in page and 'id="river"' not in page
    assert "Did the game collapse?" in page and 'class="examples short"' in page
