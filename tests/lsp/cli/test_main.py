"""``lsp``: every command with ``--help``, nothing, a typo and a run that is not there."""

import io
import os
import subprocess
import sys

import pytest

from lsp.cli import main as entry
from lsp.cli.main import call, main
from lsp.cli.table import COMMANDS
from lsp.errors import RunError
from lsp.tools.places import ROOT

UNKNOWN_RUN = {
    "train": ["resume=nope"],
    "plan": ["resume=nope"],
    "preflight": ["init=checkpoint", "init.run=nope"],
    "serve": ["rollout.engine=vllm", "rollout.url=http://localhost:1", "init=lsp", "init.run=nope"],
    "sweep": ["nope.yaml"],
    "compare": ["contrasts=nope.yaml"],
    "phase": ["folder=x", "nope"],
    "rank": ["nope.yaml"],
    "doctor": ["nope"],
    "completion": ["nope"],
}
"""What stands in the place of a run that is not there; of the others the name alone."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in, no key, no server, and nobody who could be asked for words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsp.run.folder.IS_CHECKOUT", False)  # whose runs are nobody's here
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("lsp.doctor.silent_server", lambda: "not asked in a test")
    monkeypatch.setattr("lsp.doctor.unreachable", lambda url: "not asked in a test")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []  # nothing began


def ended(words):
    """The exit code of a command line; a text that a process would end with is said, and 1."""
    try:
        return main(words)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
            return 1
        return ending.code


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_begins_nothing(name, here, capsys):
    for words in ([name, "--help"], ["help", name], [name, "-h"], [name, "method=lsp", "--help"]):
        assert ended(words) == 0
        said = capsys.readouterr()
        assert said.err == "" and said.out.startswith(f"lsp {name}")
        lines = said.out.splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 110
        assert f"  lsp {name}" in said.out and COMMANDS[name].docs in said.out


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_word_a_command_that_needs_one_shows_its_help(name, here, capsys):
    code, said = ended([name]), capsys.readouterr()
    if COMMANDS[name].needs:
        assert code == 2 and said.out == "" and f"  lsp {name}" in said.err
        assert said.err.endswith(f"error: lsp {name} needs {COMMANDS[name].needs}\n")
    elif name == "runs":
        assert code == 1 and "there is no run; looked in outputs/" in said.err
    else:
        assert name == "doctor" and code == 0 and said.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_typo_and_a_run_that_is_not_there_are_one_error(name, here, capsys):
    for words in (["tpyo=1"], ["--tpyo=1"], UNKNOWN_RUN.get(name, ["nope"])):
        code, said = ended([name, *words]), capsys.readouterr()
        assert code == (2 if words[0].startswith("--") else 1), words
        assert said.err.startswith("error: ") and "Traceback" not in said.err
        assert said.out == ""
    reason = {"phase": "nope is no setting", "doctor": "no words", "completion": "one of bash"}
    assert reason.get(name, "nope") in said.err


@pytest.fixture
def processed(tmp_path):
    """A command line as a process of its own, in an empty folder, without a key, where W&B and the
    Hub are closed ports: its exit code and what it said. Nothing may have begun."""
    closed = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}
    others = {name: text for name, text in os.environ.items() if name != "OPENAI_API_KEY"}
    environment = {**others, **closed, "PYTHONPATH": str(ROOT)}

    def run(words):
        command = [sys.executable, "-m", "lsp", *words]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
        assert "Traceback" not in result.stdout + result.stderr, result.stderr
        assert list(tmp_path.iterdir()) == []
        return result

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_as_a_real_process_no_command_begins_by_help_nothing_a_typo_or_an_unknown_run(
    name, processed
):
    helped = processed([name, "--help"])
    assert helped.returncode == 0 and helped.stderr == "" and f"  lsp {name}" in helped.stdout
    alone = processed([name])
    if COMMANDS[name].needs:
        assert alone.returncode == 2 and alone.stdout == ""
    else:  # there may be runs in the checkout, and none is none
        assert alone.returncode == (0 if alone.stdout else 1)
    for words in (["tpyo=1"], ["--tpyo=1"], UNKNOWN_RUN.get(name, ["nope"])):
        refused = processed([name, *words])
        assert refused.returncode == (2 if words[0].startswith("--") else 1), words
        assert refused.stderr.startswith("error: ") and refused.stdout == ""


def test_the_start_answers_without_the_libraries_that_take_seconds():
    code = (
        "import sys; from lsp.cli.main import main; from lsp.cli.table import COMMANDS\n"
        "for name in COMMANDS: assert main([name, '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'wandb', 'scipy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_command_that_is_none_has_the_nearest_named(here, capsys):
    for words, says in {
        "": "lsp COMMAND",
        "trian": "there is no command trian; did you mean lsp train",
        "xyzzy": "there is no command xyzzy; there are train, plan,",
        "method=lsp": "a command comes first: lsp train method=lsp",
        "--frobnicate": "there is no command --frobnicate",
        ".": ". is no command; to look at a run: lsp show .",
    }.items():
        assert ended(words.split()) == 2
        said = capsys.readouterr()
        assert says in said.out + said.err
    for words in (["--help"], ["help"], ["-h"]):
        assert ended(words) == 0
        out = capsys.readouterr().out
        assert all(f" {name} " in out for name in COMMANDS) and len(out.splitlines()) <= 40
    assert ended(["--version"]) == 0 and capsys.readouterr().out.startswith("lsp ")


@pytest.mark.parametrize(
    ("flag", "now"),
    [
        ("--step=120", "step=120"),
        ("--runs-root", "runs_root=…"),
        ("--greedy", "greedy=true"),
        ("--trust", "trust=[key=value]"),
    ],
)
def test_a_flag_of_an_earlier_version_is_refused_with_todays_spelling(flag, now, here, capsys):
    assert ended(["show", "run", flag]) == 2
    assert capsys.readouterr().err == f"error: {flag}: settings are written key=value here: {now}\n"


def test_follow_is_the_one_flag_that_stands_for_a_setting(here, capsys):
    assert ended(["show", "nope", "--follow"]) == 1
    assert "there is no run 'nope'" in capsys.readouterr().err
    assert ended(["report", "nope", "--follow"]) == 2
    assert "settings are written key=value here: follow=…" in capsys.readouterr().err


def test_what_stands_behind_two_dashes_is_no_flag_of_ours(here, capsys):
    vllm = ["rollout.engine=vllm", "rollout.url=http://127.0.0.1:8000"]
    assert ended(["serve", *vllm, "--", "--help"]) == 0
    assert capsys.readouterr().out.endswith(" --help\n")


def test_each_ending_has_its_code(capsys):
    def raising(error):
        def command(arguments):
            raise error

        return command

    assert call(lambda arguments: None, []) == 0 and call(lambda arguments: 1, []) == 1
    assert call(raising(RunError("why; the way out")), []) == 1
    assert call(raising(KeyboardInterrupt("what is kept")), []) == 130
    assert capsys.readouterr().err == "error: why; the way out\ninterrupted; what is kept\n"
    with pytest.raises(ZeroDivisionError):  # a mistake of this program stays one
        call(lambda arguments: 1 / 0, [])


def test_code_of_the_users_own_is_found_and_replaces_nothing(here, monkeypatch):
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(here))])
    before = list(sys.path)
    assert ended(["--help"]) == 0
    assert sys.path == [*before, os.getcwd()]


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    command = f"{sys.executable} -m lsp --help | head -1"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.startswith("lsp COMMAND") and result.stderr == ""


@pytest.mark.parametrize("how", [["run.py"], ["-m", "lsp"]])
def test_a_python_without_the_packages_says_which_one_has_them(how):
    """``-S`` leaves out where packages are installed."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-S", *how], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert f"error: this Python ({sys.executable}) has no hydra, " in result.stderr
    assert "run `make setup` once and then .venv/bin/python" in result.stderr


def test_run_py_is_the_command_train(monkeypatch, capsys):
    said = []
    for words in ([sys.executable, "run.py"], [sys.executable, "-m", "lsp", "train"]):
        result = subprocess.run(
            [*words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        said.append(result.stdout)
    assert said[0] == said[1] and said[0].startswith("lsp train")


@pytest.mark.parametrize(
    "module",
    ["sweeps.paper", "sweeps.reproduce", "eval.compare", "lsp.pocket.pretrain", "lsp.pocket.exact",
     "lsp.model.smollm2"],
)  # fmt: skip
def test_modules_that_are_no_commands_have_help_that_begins_nothing(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module, "--help"])
    monkeypatch.setattr(entry, "import_module", lambda name: pytest.fail("it began"))
    with pytest.raises(SystemExit) as ending:
        entry.start_module(module, f"what {module} does")
    assert ending.value.code == 0 and f"what {module} does" in capsys.readouterr().out
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert source.endswith(f'    start_module("{module}", __doc__)\n')
