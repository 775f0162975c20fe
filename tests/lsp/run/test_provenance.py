"""Where a run came from is kept. (That secrets are not: tests/lsp/tools/test_secrets.py, and
tests/test_secrets_of_a_run.py, which looks for planted ones in every file of a run.)"""

import json
import random
import subprocess

import pytest
from planted import FORMATS, draw

from lsp.run import provenance as module
from lsp.run.provenance import CodeDiff, code_diff, provenance


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a folder that counts as the project's: ``git("init", "-q")`` -> what it says."""
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def run(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture
def committed(git, tmp_path):
    """Two files as they were committed, in a folder with a space in its name."""
    git("init", "-q")
    (tmp_path / "a b").mkdir()
    for name in ("a b/first.py", "second.py"):
        (tmp_path / name).write_text("one\n")
        git("add", name)
    git("commit", "-q", "-m", "first")
    return tmp_path


def test_provenance_says_where_a_run_came_from():
    found = provenance("python run.py seed=1")
    assert found["command"] == "python run.py seed=1"
    assert found["packages"]["torch"] and found["python"].startswith("3.")
    assert isinstance(found["git_untracked"], list) and found["cpus"] >= 1
    json.dumps(found)
    assert isinstance(code_diff().text, str)


def test_without_a_repository_there_is_no_commit_and_no_diff(git):
    assert provenance("")["git_commit"] == ""
    assert code_diff() == CodeDiff("") and code_diff().warning == ""


def test_commit_names_of_untracked_files_and_the_diff_are_those_of_git(git, committed):
    git("config", "color.ui", "always")
    git("config", "diff.external", "false")  # neither of which is a diff to keep
    (committed / "second.py").write_text("two\n")
    (committed / "note.txt").write_text("hunter2hunter2")
    found = provenance("run")
    assert found["git_commit"] == git("rev-parse", "HEAD")
    assert found["git_untracked"] == ["note.txt"]
    diff = code_diff()
    assert diff.text.splitlines()[-2:] == ["-one", "+two"] and "hunter2" not in diff.text
    assert diff.secrets == ()


def test_secrets_in_a_diff_are_blanked_and_said_by_kind_and_file(committed):
    generator = random.Random(1)
    key, bot = (draw(FORMATS[name], generator) for name in ("Groq", "GitHub"))
    (committed / "a b/first.py").write_text(
        f"call({key!r}, {key!r})\nmy_password = 'hunter2hunter2'\n"
    )
    (committed / "second.py").write_text(f"git clone {bot}\n")
    diff = code_diff()
    assert diff.secrets == (
        "key of a known beginning in a b/first.py",
        "value named password in a b/first.py",
        "github-pat in second.py",
    )
    assert "+call('[hidden]', '[hidden]')\n+my_password = '[hidden]'\n" in diff.text
    assert diff.text.endswith("-one\n+git clone [hidden]")
    assert diff.warning == (
        "what differs from the commit holds what looks like a secret (key of a known beginning in"
        " a b/first.py, value named password in a b/first.py, github-pat in second.py), so it is"
        " not sent to W&B, and the run's code.diff has [hidden] in its place; take the secret out"
        " of the code, or commit the line if it is none"
    )


def test_a_long_diff_ends_with_the_last_whole_file_and_says_so(committed, monkeypatch):
    (committed / "a b/first.py").write_text("two\n")
    (committed / "second.py").write_text("a line of data\n" * 100)
    monkeypatch.setattr(module, "LONGEST_DIFF", 500)
    lines = code_diff().text.splitlines()
    assert lines[-2:] == ["+two", "[the rest is left out: more than 500 characters]"]
    assert len([line for line in lines if line.startswith("diff --git")]) == 1


def test_of_many_untracked_files_the_first_are_named_and_the_rest_counted(committed, monkeypatch):
    for number in range(5):
        (committed / f"note-{number}.txt").touch()
    monkeypatch.setattr(module, "MOST_UNTRACKED", 2)
    assert provenance("")["git_untracked"] == ["note-0.txt", "note-1.txt", "and 3 more"]
