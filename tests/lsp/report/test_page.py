"""The report of a run: what it says, what it holds, and what it refuses."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lsp.loop.launch import start
from lsp.report import charts, facts
from lsp.report.__main__ import main
from lsp.report.game import read_index, read_plays, sample
from lsp.report.page import render, write_report
from lsp.report.record import read_record, read_records
from lsp.report.river import ILLEGAL, query_shares
from lsp.run.folder import lock_run, read_run, update_run
from lsp.tools.text import page_json
from lsp.tracking.local import LocalTracker
from lsp.tracking.reader import read_trace

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    '"><svg onload=window.hacked=1>',
    "\u202egnirts\u202c\x00\x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "_private \u2028 & &lt;",
)


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the small run, to be changed."""
    return Path(shutil.copytree(small_run[0], tmp_path / "run"))


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_settings(run, **values):
    tree = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(tree | values))


def add_step(run, step, rows):
    """A step's rows as a tracker would write them; what is not given is plain."""
    plain = dict(
        run_id="x", step=step, source="challenger", reward=0.5, quality=3.0,
        quality_status="read", solver_reward=0.5, solver_advantage=0.0, query_value=0.5,
        challenger_reward=-0.5, challenger_advantage=0.0, query_finish_reason="stop",
        answer_finish_reason="stop", query_tokens=3, answer_tokens=2,
    )  # fmt: skip
    LocalTracker(run).log(step, {}, [plain | row for row in rows])


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


def test_the_page_holds_every_row_of_a_pocket_run(small_run):
    folder, _ = small_run
    page = render([read_record(folder)])
    data = data_of(page)
    (game,) = data["games"]
    rows = read_trace(folder)
    answers = [
        (game["steps"][i], data["texts"][query[0]], data["texts"][answer[0]], answer[1])
        for i, queries in enumerate(game["plays"])
        for query in queries
        for answer in query[10]
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
    assert "Finished: 3 steps" in page and "its base: win rate" in page
    assert json.loads((folder / "run.json").read_text())["git_commit"] in page
    # Settings that were given are listed beside their defaults.
    assert re.search(r"num_steps</code></th><td><code>150</code></td><td><code>3</code>", page)
    for title in charts.PANELS:
        assert f">{title}</text>" in page.replace("\n", ""), title


def test_the_policy_names_the_one_script_and_the_one_style(small_run):
    import base64
    import hashlib

    page = render([read_record(small_run[0])])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src &#39;none&#39;;") and "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy
    assert "style=" not in page and "http-equiv" in page
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "href"))


class Elements(HTMLParser):
    """Names of all elements of a page, and whether any attribute handles an event."""

    def __init__(self, page):
        super().__init__()
        self.names, self.handlers = set(), 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.handlers += sum(name.startswith("on") for name, _ in attributes)


def test_hostile_text_makes_no_element(run):
    before = Elements(render([read_record(run)]))
    rows = [
        dict(query_id=f"q{i}", query=text, answer_id=f"q{i}-a0", answer=text + "x" * 10**6)
        for i, text in enumerate(HOSTILE)
    ]
    add_step(run, 4, rows)
    text = " ".join(HOSTILE)
    update_run(run, command=text, git_commit=text)
    edit_settings(run, run_name=text, objective=text)
    (run / "alerts.jsonl").write_text(json.dumps({"step": 1, "text": text}) + "\n")
    after = render([read_record(run)])
    elements = Elements(after)
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


def test_free_text_is_shown_by_words_and_openings(run):
    """A world other than the pocket one; hostile openings become labels of a drawing."""
    edit_settings(run, world="paper")
    add_step(run, 4, [dict(query_id=f"q{i}", query=t, answer="a") for i, t in enumerate(HOSTILE)])
    page = render([read_record(run)])
    assert "by number of words" in page and "first two words" in page
    assert "true rubric" not in page
    queries = {1: [("write a poem", "stop")] * 2 + [("one two three", "stop"), ("x", "length")]}
    shares = query_shares(queries, "opening")
    assert (shares["write a"], shares["one two"], shares[ILLEGAL]) == ([0.5], [0.25], [0.25])
    words = query_shares(queries, "words")
    assert words["1 to 5 words"] == [0.75] and sum(s[0] for s in words.values()) == 1


def test_a_diverged_run_has_its_report(run):
    nan = float("nan")
    add_step(run, 4, [dict(query_id="q", query="copy a", answer="a", reward=nan, query_value=nan,
                           challenger_advantage=nan, solver_advantage=nan)])  # fmt: skip
    page = render([read_record(run)])
    assert data_of(page)["games"][0]["plays"][3][0][4] is None and "NaN" not in page


def test_repeats_are_marked(run):
    again = read_trace(run, [1])[0]["query"]
    add_step(run, 4, [dict(query_id=f"q{i}", query=again, answer="a") for i in range(3)])
    index = read_index(run, None)
    (first, *_) = read_plays(run, 4, lambda text: True, index.asked)
    assert (first.same_step, first.first_step) == (3, 1)
    assert index.asked[again][0] >= 4


def test_a_sample_holds_the_best_the_worst_and_the_most_repeated(run):
    """A run that does not fit: 60 steps of 20 queries of 2,000 characters."""
    shutil.rmtree(run / "trace")
    for step in range(1, 61):
        rows = [
            dict(query_id=f"q{i}", query=f"{step} {i} " + "x" * 2_000, answer="y" * 500,
                 challenger_advantage=(i - 10) / 100 + (step == 7 and i == 3) * 5
                 - (step == 31 and i == 4) * 5)
            for i in range(19)
        ]  # fmt: skip
        rows.append(dict(query_id="q19", query="again " + "z" * 300, answer="a"))
        add_step(run, step, rows)
    index = read_index(run, None)
    for budget in (600_000, 60_000):  # the second one holds nothing but what must be in, cut short
        chosen = sample(run, index, lambda text: True, budget)
        assert not chosen.whole
        queries = [query for plays in chosen.plays.values() for query in plays]
        assert max(q.advantage for q in queries) == pytest.approx(4.93, abs=0.01)
        assert min(q.advantage for q in queries) == pytest.approx(-5.06, abs=0.01)
        assert all(any(q.text.startswith("again") for q in p) for p in chosen.plays.values())
        assert (min(chosen.plays), max(chosen.plays)) == (1, 60)
        texts = [t for q in queries for t in (q.text, *(a.text for a in q.answers))]
        assert budget / 4 < len(page_json(texts)) <= budget


def test_escapes_count(run):
    """An angle bracket takes six bytes in the page."""
    shutil.rmtree(run / "trace")
    for step in range(1, 21):
        add_step(
            run, step, [dict(query_id="q", query=f"{step} " + "<" * 2_000, answer="&" * 2_000)]
        )
    index = read_index(run, None)
    assert not sample(run, index, lambda text: True, 400_000).whole
    assert sample(run, index, lambda text: True, 600_000).whole


def test_what_was_not_played_does_not_stand_for_the_worst(run):
    shutil.rmtree(run / "trace")
    plain = dict(query_id="a", query="best " * 50, answer="x", challenger_advantage=1.0)
    worst = dict(query_id="b", query="worst " * 50, answer="x", challenger_advantage=-1.0)
    unplayed = [
        dict(query_id=f"u{i}", query=f"{i} " * 90, query_finish_reason="length",
             query_value=None, challenger_advantage=None)
        for i in range(20)
    ]  # fmt: skip
    add_step(run, 1, [plain, worst, *unplayed])
    chosen = sample(run, read_index(run, None), lambda text: True, budget=1_400)
    assert {q.text.split()[0] for q in chosen.plays[1]} >= {"best", "worst"}


def test_win_rate_interval_by_hand():
    # 6 of 8 decided queries: 0.3491 to 0.9681 (Clopper and Pearson); 8 of 10 were decided.
    rate, low, high = facts.win_rate_interval(6, 2, 2)
    expected = (0.7, 0.5 + 0.8 * (0.3491 - 0.5), 0.5 + 0.8 * (0.9681 - 0.5))
    assert (rate, low, high) == pytest.approx(expected, abs=1e-4)
    assert facts.win_rate_interval(0, 7, 0) == (0.5, 0.5, 0.5)


@given(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 60))
def test_the_interval_holds_a_half_where_the_sign_test_does_not_reject(wins, ties, losses):
    if not wins + losses:
        return
    rate, low, high = facts.win_rate_interval(wins, ties, losses)
    assert low <= rate <= high
    count, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(count, k) for k in range(most, count + 1)) / 2**count
    assert (low <= 0.5 <= high) == (tail >= 0.025)


def test_ends_of_a_run_by_hand(run):
    values = [1, 3, 1, 3, 2, 5, 9, 5, 9, 7]
    lines = [{"step": i, "reward/external/mean": value} for i, value in enumerate(values, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    number = facts.windows(read_record(run), "reward/external/mean", "R", 3)
    # Means 2 and 7, variances 1 and 4 of five steps each: Welch's 5.88 degrees of freedom, t 2.459.
    assert (number.start, number.end) == (2, 7)
    assert number.high - number.change == pytest.approx(2.459, rel=0.01)
    lines = "".join(json.dumps(line) + "\n" for line in lines[:4])
    (run / "metrics.jsonl").write_text(lines)
    assert facts.windows(read_record(run), "reward/external/mean", "R", 3).low is None


def test_verdicts(run):
    for wins, word in ((50, "Better than"), (5, "No different from"), (0, "Worse than")):
        counts = {"final/wins": wins, "final/ties": 10, "final/losses": 8}
        edit_json(run / "summary.json", **counts)
        assert facts.verdict(read_record(run)).startswith(f"{word} its base")
    update_run(run, status="interrupted")
    assert "Too few steps" in facts.verdict(read_record(run))
    for slope, word in ((0.1, "rose"), (-0.1, "fell"), (0.0, "did not clearly change")):
        lines = [{"step": i, "reward/external/mean": slope * i + i % 2} for i in range(1, 41)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert f"R {word}" in facts.verdict(read_record(run))


def test_lights(run):
    (run / "alerts.jsonl").write_text(
        '{"step": 2, "text": "rollout/distinct_query_frac fell to 0.1 (limit 0.25)"}\n'
        '{"step": 3, "text": "the Solver\'s external reward rose by 1 …: reward hacking"}\n'
    )
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert (lights["distinct queries"].state, lights["distinct queries"].step) == ("alarm", 2)
    assert lights["reward hacking"].step == 3
    assert lights["queries played"].state == "too few steps"
    assert "at step 2" in render([read_record(run)])
    lines = [{"step": i, "rollout/played_query_frac": 0.1} for i in range(1, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert (lights["queries played"].state, lights["queries played"].value) == ("ok", 0.1)
    edit_settings(run, method={"queries": "dataset"})
    lights = {light.label: light for light in facts.lights(read_record(run))}
    assert lights["queries played"].state == "not measured"


def test_states(run):
    record = read_record(run)
    assert record.state.startswith("Finished: 3 steps")
    update_run(run, status="running")
    edit_settings(run, num_steps=9)
    killed = read_record(run).state
    assert "Killed after step 3 of 9: its process is gone" in killed and "resume=" in killed
    with lock_run(run):
        assert read_record(run).state.startswith("Still going: 3 of 9 steps so far")
        for status, word in (("interrupted", "Stopped after"), ("failed", "Failed after")):
            update_run(run, status=status)  # its own process writes this report, and holds it
            assert read_record(run).state.startswith(word)
    update_run(run, status="interrupted")
    assert "Stopped after step 3 of 9, everything saved" in read_record(run).state
    update_run(run, status="failed")
    assert "Failed after step 3" in read_record(run).state


def test_several_runs_are_compared(run, small_run):
    other = Path(shutil.copytree(run, run.parent / "other"))
    edit_json(other / "run.json", id="other")
    edit_settings(other, seed=1)
    third = Path(shutil.copytree(run, run.parent / "third"))
    edit_json(third / "run.json", id="third", method="lsp_zero")
    records = read_records([run, other, third])
    groups = facts.grouped(records)
    assert [len(members) for members in groups.values()] == [2, 1]
    page = render(records)
    assert "2 seeds" in page and "3 runs compared" in page
    assert [game["id"] for game in data_of(page)["games"]][1:] == ["other", "third"]
    # One drawing a curve, a colour a group.
    assert ">KL to the reference (k2): Solver</text>" in page.replace("\n", "")


def test_a_cross_play_is_in_the_report_of_its_run(run):
    assert 'id="crossplay"' not in render([read_record(run)])
    (run / "crossplay").mkdir()
    head = (
        "challenger,solver,queries,played,illegal_frac,reward_mean,reward_se,accuracy,accuracy_se"
    )
    lines = ["base,base,8,6,0.25,0.625,0.1,,", "base,step-000003,8,6,0.25,,,,"]
    (run / "crossplay" / "crossplay.csv").write_text("\n".join([head, *lines]) + "\n")
    page = render([read_record(run)])
    assert "base asks base: 0.62" in page and "asks step-000003" not in page
    assert "<image" not in page and ">base (25% illegal)</text>" in page.replace("\n", "")


def test_means_and_bands_over_seeds(run):
    one = read_record(run)
    records = [one, replace(one, run=one.run | {"id": "other"})]
    extra = {one.run["id"]: {"x": [(1, 2.0), (2, 4.0)]}, "other": {"x": [(1, 4.0), (3, 9.0)]}}
    # Step 1 alone is in both: mean 3, standard deviation sqrt(2).
    assert charts._mean_curve(records, "x", extra) == [(1, 3.0, pytest.approx(math.sqrt(2)))]


def test_a_chart_is_fit_for_the_page():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], label="<b>&")
    figure.axes[0].legend()
    svg = charts.inline_svg(figure)
    assert svg.startswith("<svg viewBox=") and "style" not in svg and "<b>" not in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids)) and all(i.startswith("c") for i in ids)
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return str(stop.value)


def test_the_command_writes_where_it_says(run, capsys):
    out = run.parent / "x.html"
    main([str(run), f"out={out}"])
    assert capsys.readouterr().out.strip() == str(out) and out.stat().st_size > 10_000
    assert "cannot be written" in command(run, f"out={run.parent}/none/x.html")
    for other in (run, "/dev/zero"):  # a rename would replace the device
        assert "is there and is no file" in command(run, f"out={other}")


def test_bad_input_gets_one_clear_word(run, tmp_path):
    assert "which run?" in command()
    assert "there is no run 'nowhere'" in command("nowhere")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    edit_settings(other, world="paper")
    assert "have different scales and cannot be compared" in command(run, other)
    empty = Path(shutil.copytree(run, tmp_path / "empty"))
    shutil.rmtree(empty / "trace")
    assert "no recorded step yet" in command(empty)
    old = Path(shutil.copytree(run, tmp_path / "old"))
    for shard in (old / "trace").iterdir():
        pq.write_table(pq.read_table(shard).drop_columns(["solver_reward"]), shard)
    said = command(old)
    assert "its trace has no column solver_reward" in said and "another version" in said
    (run / "config.yaml").write_text("world: pocket\n")
    assert "config.yaml has no" in command(run)


def test_damaged_records_get_one_clear_word(run, tmp_path):
    def damaged(change):
        folder = Path(shutil.copytree(run, tmp_path / f"damaged{len(list(tmp_path.iterdir()))}"))
        change(folder)
        return command(folder)

    shard = "trace/step-000002.parquet"
    said = damaged(lambda folder: (folder / shard).write_bytes((run / shard).read_bytes()[:200]))
    assert "is damaged, or was written by another version" in said
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
    assert "its base: win rate" in render([read_record(run)])
    update_run(run, status="running")
    assert "its base: win rate" not in render([read_record(run)])


def test_the_command_that_runs_it_again(run):
    update_run(run, command="python run.py method=lsp 'run_dir=a b' num_steps=2 seed=4")
    again = "python run.py method=lsp seed=4 num_steps=3"
    assert facts.command_again(read_record(run)) == again


def test_a_step_that_a_kill_left_without_its_line_is_shown(run):
    """The shard is written before the line of metrics."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + '\n{"step": 3, "los')
    assert read_record(run).steps == [1, 2, 3]
    write_report([read_record(run)], run / "again.html")


def test_a_report_needs_no_torch(small_run, tmp_path):
    """It is looked at over ssh, on a machine with a small quota: a second, not ten."""
    code = "import sys; from lsp.report.__main__ import main; main(sys.argv[1:]);"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_run[0]), f"out={tmp_path}/x.html"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
