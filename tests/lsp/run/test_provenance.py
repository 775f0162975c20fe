"""Where a run came from is kept. (That secrets are not: tests/lsp/tools/test_secrets.py, and
tests/test_run_py.py, which looks for planted ones in every file of a run.)"""

import json
import subprocess

from lsp.run import provenance as module
from lsp.run.provenance import code_diff, provenance


def test_provenance_says_where_a_run_came_from():
    found = provenance("python run.py seed=1")
    assert found["command"] == "python run.py seed=1"
    assert found["packages"]["torch"] and found["python"].startswith("3.")
    assert isinstance(found["git_untracked"], list) and found["cpus"] >= 1
    json.dumps(found)
    assert isinstance(code_diff(), str)


def test_commit_names_of_untracked_files_and_the_diff_are_those_of_git(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert provenance("")["git_commit"] == "" == code_diff()  # no repository
    git("init", "-q")
    (tmp_path / "code.py").write_text("one\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    (tmp_path / "code.py").write_text("my_password = 'hunter2hunter2'\n")
    (tmp_path / "note.txt").write_text("hunter2hunter2")
    found = provenance("run")
    assert found["git_commit"] == git("rev-parse", "HEAD")
    assert found["git_untracked"] == ["note.txt"]
    diff = code_diff()
    assert "-one" in diff and "+my_password = '[hidden]'" in diff and "hunter2" not in diff
