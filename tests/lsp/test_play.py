"""``python -m lsp.play``: what is shown is what models, reward and judge say for the same key."""

import fcntl
import io
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from lsp import play
from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.language_model import load_model
from lsp.run.checkpoint import newest_checkpoint
from lsp.types import DrawKey
from tests.ctrl_c import hear_ctrl_c

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(small_run):
    return small_run[0]


@pytest.fixture(scope="module")
def table(run):
    """What ``main`` loads for the small run, at its defaults."""
    return play.set_table(run, newest_checkpoint(run), 0, False, {})


@pytest.fixture
def talk(monkeypatch, capsys):
    """Say lines to ``main`` and get what it printed after its two lines of greeting."""

    def say(run, typed, *options, columns=80):
        raw = typed if isinstance(typed, bytes) else typed.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8"))
        monkeypatch.setenv("COLUMNS", str(columns))
        play.main([str(run), *options])
        greeting, _, rest = capsys.readouterr().out.partition("/quit\n")
        assert greeting.startswith("base: pocket; trained: ")
        return rest

    return say


def expected(table, query, turn, temperature=1.0):
    """(text, R, R_Q) of the base and the trained model, asked without ``lsp.play``."""
    players = table.players
    prompts = players.chat.encode([[("user", query)]])
    found = []
    for model in (table.base, players.policy):
        key = DrawKey(0, turn, "solver")
        ((answer,),) = players.engine.generate(model, prompts, 1, 12, temperature, key)
        (reward,) = players.reward([query], [answer.text])
        (quality,), _ = players.self_judge.score([query], [answer.text], DrawKey(0, turn, "judge"))
        found.append((answer.text, reward, quality))
    return found


def heads(found):
    return [
        f"{name}  R = {reward:.2f}  R_Q = {quality:.2f}"
        for name, (_, reward, quality) in zip(("base", "trained"), found, strict=True)
    ]


def test_both_answers_are_shown_with_the_scores_of_reward_and_judge(run, table, talk):
    lines = talk(run, "reverse abca\n\n  sort cba \n").splitlines()
    for first, turn, query, right in ((0, 1, "reverse abca", "acba"), (5, 2, "sort cba", "abc")):
        found = expected(table, query, turn)
        assert lines[first : first + 2] == [f"query: {query}", f"right answer: {right}"]
        head, text = (line.split("│") for line in lines[first + 2 : first + 4])
        assert [part.strip() for part in head] == heads(found)
        assert [part.strip() for part in text] == [text for text, _, _ in found]


def test_turns_draw_anew_and_a_seed_repeats_them(run, talk):
    asked = "reverse abcabcab\n" * 8
    first = talk(run, asked)
    assert talk(run, asked) == first != talk(run, asked, "seed=7")
    assert len(set(first.split("\n\n"))) > 2
    greedy = talk(run, asked, "greedy=true")
    assert len(set(greedy.strip().split("\n\n"))) == 1


def test_greedy_answers_are_the_likeliest(run, table, talk):
    found = expected(table, "swap abc", 1, temperature=0.0)
    shown = talk(run, "swap abc\n", "greedy=true", columns=40)
    for head, (text, _, _) in zip(heads(found), found, strict=True):
        assert f"{head}\n{text}" in shown


def test_the_challenger_asks_what_the_trained_model_writes(run, table, talk):
    (query,) = table.players.ask(table.players.policy, 1, DrawKey(0, 2, "challenger"))
    shown = talk(run, "copy a\n/challenge\n").split("\n\n")[1]
    assert query.played and shown.startswith(f"query: {query.text}\n")
    assert all(head in shown for head in heads(expected(table, query.text, 2)))


def test_what_a_run_would_not_play_is_shown_and_not_answered(table, monkeypatch, capsys):
    from lsp.types import Query

    written = Query("q", "copy a\nright answer: \x1b[2J", "length")
    monkeypatch.setattr(type(table.players), "ask", lambda *a: [written])
    play.challenge(table, 1)
    out = capsys.readouterr().out
    assert out == (
        "query: copy a\n       right answer: ␛[2J\nnot played: cut at the token limit of queries\n"
    )


def test_commands(run, talk):
    shown = talk(run, "/foo\x1b[2J\n/help\n/quit\ncopy a\n").splitlines()
    assert shown[0] == "/foo␛[2J is no command; there are /challenge, /help, /quit"
    assert [line.split()[0] for line in shown[1:]] == ["/challenge", "/help", "/quit"]


def test_hostile_text_is_harmless(run, talk):
    """From the person, who may paste anything, and from a model."""
    shown = talk(run, b"copy \x1b]0;x\x07\xe2\x80\xae<|eot_id|>\xff\n")
    assert shown.startswith("query: copy ␛]0;x␇⟦U+202E⟧<|eot_id|>�\nillegal in the pocket world")
    answer = play.Answer("\x1b[2Ja\u202eb\nR = 1.00", False, 0.0, float("nan"))
    assert play.block("base", answer) == ("base  R = 0.00  R_Q = unread\n␛[2Ja⟦U+202E⟧b\nR = 1.00")


def test_a_query_that_is_too_long_is_one_line_and_the_next_is_played(run, table, talk):
    """The longest that fits is said, and fits."""
    shown = talk(run, f"copy {'a' * 300}\nsort b\n").splitlines()
    longest = int(re.search(r"^not played: too long: 305 .* most (\d+) fit", shown[0])[1])
    assert shown[1] == "query: sort b"
    fits = "a" * longest
    assert table.refusal(fits) is None and table.refusal(fits + "a")
    table.answers(fits, 1)


@pytest.mark.parametrize("width", [10, 59, 60, 80, 133])
def test_columns_fit_the_terminal(width):
    left, right = f"base\n{'ab ' * 60}\n\nend", f"trained\n{'x' * 200}"
    shown = play.side_by_side(left, right, width)
    assert max(map(len, shown.splitlines())) <= width
    assert ("│" in shown) == (width >= 60)
    kept = re.sub(r"[│\s]", "", shown)
    assert kept.count("x") == 200 and kept.count("ab") == 60


def test_the_base_is_the_reference_only_where_the_run_starts_at_it(run, table, small, tmp_path):
    assert table.base is table.players.reference
    later = tmp_path / "later"
    start([*small, f"run_dir={later}", "tracker=none", "num_steps=1",
           "model.lora.rank=4", "optim.lr=0.1", "init=checkpoint", f"init.run={run}"])  # fmt: skip
    folder = newest_checkpoint(later)
    found = play.set_table(later, folder, 0, False, {})
    loaded = (found.base, found.players.reference, found.players.policy)
    for source, model in zip(("pocket", newest_checkpoint(run), folder), loaded, strict=True):
        plain, _ = load_model(source, "float32", torch.device("cpu"))
        state = plain.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_is_chosen_by_name(run, talk, capsys):
    assert talk(run, "", "checkpoint=step-000002") == ""
    with pytest.raises(RunError, match=r"no checkpoint 'step-9'; it has step-000002, step-00000"):
        play.main([str(run), "checkpoint=step-9"])


def play_py(*arguments, typed=b""):
    return subprocess.run(
        [sys.executable, "-m", "lsp.play", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, input=typed, capture_output=True, timeout=900,
    )  # fmt: skip


def test_a_pipe_drives_it(run, table):
    result = play_py(run.name, f"runs_root={run.parent}", typed=b"reverse abca\n/challenge")
    assert result.returncode == 0 and result.stderr == b""
    shown = result.stdout.decode()
    assert all(head in shown for head in heads(expected(table, "reverse abca", 1)))
    assert shown.count("query: ") == 2 and "> " not in shown


REFUSED = """
import sys
from lsp.cli.main import run
if run("play", ["nowhere"]) == 1:
    assert not {"torch", "transformers"} & {*sys.modules}
else:
    raise AssertionError
"""


def test_errors_come_before_anything_loads(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    for name, says in (
        ("nowhere", "there is no run 'nowhere', neither as a folder nor as an id under outputs/"),
        (bare, f"has no checkpoint; `python run.py resume={bare}` goes on with it and saves one"),
    ):
        result = play_py(name)
        said = result.stderr.decode()
        assert result.returncode == 1 and result.stdout == b""
        assert said.startswith("error: ") and says in said and said.count("\n") == 1
    subprocess.run([sys.executable, "-c", REFUSED], cwd=ROOT, check=True, timeout=900)


@pytest.mark.parametrize(
    "leave",
    [b"\x04", *(pytest.param(keys, marks=pytest.mark.slow) for keys in (b"\x03", b"/quit\r"))],
)
def test_a_terminal_has_a_prompt_and_is_left_cleanly(run, leave):
    """A real pseudo-terminal; \\x04 is Ctrl-D, \\x03 Ctrl-C."""
    master, slave = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": "50", "TERM": "dumb"}

    def as_a_terminal_does():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
        hear_ctrl_c()

    process = subprocess.Popen(
        [sys.executable, "-m", "lsp.play", run], cwd=ROOT, env=environment,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=as_a_terminal_does,
    )  # fmt: skip
    os.close(slave)
    seen = read_until(master, b"> ")
    os.write(master, b"reverse abca\r")
    seen += read_until(master, b"> ")
    time.sleep(0.5)
    os.write(master, leave)
    try:
        status = process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        # CPython notices a Ctrl-C between its prompt's last byte and its wait only at the next key.
        assert leave == b"\x03"
        os.write(master, leave)
        status = process.wait(timeout=15)
    assert status == 0
    seen += read_until(master, None)
    os.close(master)
    assert b"right answer: acba" in seen and b"R_Q = " in seen and b"Traceback" not in seen
    assert seen.endswith(b"\r\n")


def read_until(terminal, mark):
    """What a terminal shows up to a mark (None: to its end)."""
    seen, deadline = b"", time.monotonic() + 60
    while mark is None or not seen.endswith(mark):
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1)[0]:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # Linux's way to say that the other side has closed it
                part = b""
            if not part and mark is None:
                break
            assert part, seen
            seen += part
    return seen


def test_a_reward_of_the_users_own_is_trusted_by_name(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_half.py").write_text("def half(queries, answers): return [0.5] * len(answers)")
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    trust = "reward.path=own_half.half"
    start([*small, "num_steps=1", "tracker=none", f"run_dir={run}", "reward=callable", trust])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sort ba\n")))
    with pytest.raises(RunError, match=r"lsp.crossplay say 'trust=\[reward.path=own_half.half\]'"):
        play.main([str(run)])
    capsys.readouterr()
    play.main([str(run), f"trust=[{trust}]"])
    assert "R = 0.50" in capsys.readouterr().out
