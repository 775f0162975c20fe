"""What a shell's completion offers, in the real bash."""

import shutil
import subprocess

import pytest

from lsp.cli import completion
from lsp.cli.table import COMMANDS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
ASK = """
source "$1"
COMP_LINE="$2" COMP_POINT=${#2}
read -ra COMP_WORDS <<< "${2//=/ = }"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
case "$2" in *" ") COMP_CWORD=$((COMP_CWORD + 1)) ;; esac
_lsp
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    script = tmp_path_factory.mktemp("completion") / "lsp.bash"
    script.write_text(completion.bash())

    def ask(typed):
        command = ["bash", "-c", ASK, "bash", str(script), typed]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stderr == ""
        return result.stdout.split()

    return ask


def test_commands(offered):
    assert offered("lsp ") == list(COMMANDS)
    assert offered("lsp tr") == ["train"]


def test_settings_of_a_command_and_of_a_run(offered):
    assert offered("lsp show RUN st") == ["step="]
    assert {"step=", "filter=", "answers=", "--help"} <= set(offered("lsp show RUN "))
    assert offered("lsp play RUN gr") == ["greedy=true"]
    assert "method=lsp_zero" in offered("lsp train meth")
    assert offered("lsp completion f") == ["fish"]


def test_behind_an_equals_sign_bash_is_given_the_rest_of_the_word(offered):
    assert offered("lsp train method=lsp_") == ["lsp_zero"]
    assert "grpo" in offered("lsp train seed=1 init=")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_the_same_words(shell, capsys):
    completion.main([shell])
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "method=lsp_zero" in script and "greedy=true" in script
