"""docs/tutorials/ are followed as a newcomer would: the commands run, and print what is shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lsp.cli.table import COMMANDS
from tests.bench.tutorials import PAGES, Step, copy_checkout, follow, read_steps

PROGRAMS = Path(sys.executable).parent
TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"


def page(name):
    return (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")


def words(line):
    """A line without its numbers and spaces, which a machine or another seed may change."""
    return re.sub(r"[-+−]?\d[\d.,%]*|\s", "", line)


def test_steps_are_the_commands_with_the_files_and_the_output_of_their_blocks():
    text = (
        "```\nmake setup\n```\n```python\n# mine.py\nx = 1\n```\n"
        "```bash\nlsp train \\\n  seed=1\nlsp runs\n```\nYou see\n```text\ndone\n```\n"
        "```bash\nlsp doctor\n```\n"
    )
    assert read_steps(text) == [
        Step("lsp train    seed=1", {"mine.py": "# mine.py\nx = 1\n"}, "done\n"),
        Step("lsp runs", {}, "done\n"),
        Step("lsp doctor", {}, ""),
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.md")))
def test_each_says_what_one_has_at_the_end_how_long_it_takes_and_where_to_go_next(name):
    text = page(name)
    assert re.search(r"(?m)^\*\*At the end\*\* ", text) and re.search(r"(?m)^\*\*Time\*\*: ", text)
    assert text.index("## Where to go next") == text.rindex("\n## ") + 1


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.md")))
def test_each_command_of_a_tutorial_is_one_that_there_is(name):
    for block in re.findall(r"(?ms)^```(?:bash)?\n(.*?)^```$", page(name)):
        for command in re.findall(r"(?m)(?:^|\| )lsp (\w+)", block):
            assert command in COMMANDS


def shows_what_it_prints(done):
    """Each line of a block of output came from the commands above it."""
    printed: dict[str, set[str]] = {}
    for one in done:
        assert one.ended_as_shown, f"{one.step.command}\n{one.output}"
        lines = printed.setdefault(one.step.shown, set())
        lines.update(words(line) for line in one.output.splitlines())
    for shown, lines in printed.items():
        for line in shown.splitlines():
            assert words(line) in lines, f"{line}\nis not among\n{sorted(lines)}"


def test_what_is_shown_and_not_printed_is_found_numbers_apart(tmp_path):
    def followed(*steps):
        shows_what_it_prints(follow(steps, tmp_path, PROGRAMS))

    followed(
        Step("cat mine.txt", {"mine.txt": "R 0.5\nV 1\n"}, "R 0.7\n"),
        Step("echo 'error: 2 problems'; exit 1", {}, "error: 1 problems\n"),
    )
    for step in (
        Step("echo R 0.5", {}, "V 0.5\n"),
        Step("exit 1", {}, ""),
        Step("echo error: none", {}, "error: none\n"),
    ):
        with pytest.raises(AssertionError):
            followed(step)


@pytest.mark.slow
def test_a_newcomer_who_types_what_stands_there_sees_what_stands_there(tmp_path):
    copy_checkout(tmp_path)
    for name in PAGES:
        shows_what_it_prints(follow(read_steps(page(name)), tmp_path, PROGRAMS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_gpu", "cluster"])
def test_so_does_who_has_no_gpu(name, tmp_path):
    copy_checkout(tmp_path)
    shows_what_it_prints(follow(read_steps(page(name)), tmp_path, PROGRAMS))


@pytest.mark.slow
def test_a_rehearsal_with_a_judge_ends_at_its_budget_and_then_at_its_end(tmp_path):
    copy_checkout(tmp_path)
    steps = read_steps(page("judge_on_a_budget"))
    (tmp_path / "rehearsal.py").write_text(steps[0].files["rehearsal.py"], encoding="utf-8")
    server = subprocess.Popen([sys.executable, "rehearsal.py"], cwd=tmp_path)
    try:
        shows_what_it_prints(follow(steps, tmp_path, PROGRAMS))
    finally:
        server.kill()
        server.wait()
