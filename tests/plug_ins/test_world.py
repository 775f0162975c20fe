"""A whole world of a user's: one file and one yaml, which picks the other parts."""

import json

from lsp.loop.launch import start
from lsp.tracking.reader import read_trace

WORLD = '''
@settings
class VowelWorld(World):
    """Queries that name a vowel; the answer is that vowel."""

    name = "vowels"

    def is_legal(self, query):
        return query in ("a", "e", "i")

    def right_answer(self, query):
        return query if self.is_legal(query) else None

    def kinds(self, queries):
        return [QueryKinds("vowel", ["a", "e", "i"], lambda query: query)]


@settings
class Vowels(QueriesSettings):
    """The three of them."""

    def build(self, context: BuildContext) -> Sequence[str]:
        return ["a", "e", "i"]


@settings
class SameVowel(RewardSettings, Reward):
    """1 for the right answer."""

    range = (0.0, 1.0)

    def build(self, context: BuildContext) -> Reward:
        return self

    def __call__(self, queries, answers):
        return [float(query == answer) for query, answer in zip(queries, answers, strict=True)]
'''
WORLD_YAML = """
# @package _global_
defaults:
  - /model: pocket
  - /prompts: pocket
  - /self_reward: rubric
  - /eval: none

world:
  _target_: lsp.pocket.vowels.VowelWorld
data:
  _target_: lsp.pocket.vowels.Vowels
reward:
  _target_: lsp.pocket.vowels.SameVowel
"""


def test_a_whole_world(install, small, tmp_path, capsys):
    install("pocket", "vowels", WORLD, "world", WORLD_YAML)
    settings = [text for text in small if not text.startswith(("eval.", "num_steps"))]
    settings += ["world=vowels", "tracker=none", "num_steps=2"]
    start([*settings, "method=grpo", "dry_run=true"])
    assert "lsp.pocket.vowels.VowelWorld" in capsys.readouterr().out
    asked_by_data, asked_by_model = tmp_path / "grpo", tmp_path / "lsp"
    start([*settings, "method=grpo", f"run_dir={asked_by_data}"])
    rows = read_trace(asked_by_data)
    assert {row["query"] for row in rows} == {"a", "e", "i"}
    assert all(row["reward"] == (row["query"] == row["answer"]) for row in rows)
    # The shipped model asks as in its own world, so nothing that it asks is a vowel.
    start([*settings, "method=lsp", f"run_dir={asked_by_model}"])
    assert json.loads((asked_by_model / "run.json").read_text())["world"] == "vowels"
    report = (asked_by_model / "report.html").read_text(encoding="utf-8")
    assert "The Challenger&#39;s queries by vowel" in report
    assert {row["reward"] for row in read_trace(asked_by_model)} == {0.0}
