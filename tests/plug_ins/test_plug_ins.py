"""One toy of each kind, written as CONTRIBUTING.md tells a user to: each trains two steps and shows
up in the plan, the metrics, the summary and the report."""

import json

import pytest

from lsp.tracking.reader import read_metrics, read_trace


def report_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_queries(install, two_steps, planned):
    install(
        "queries",
        "alphabet",
        '''
@settings
class Alphabet(QueriesSettings):
    """One query a letter."""

    letters: str = setting("what is to be copied")

    def build(self, context: BuildContext) -> Sequence[str]:
        return [f"copy {letter}" for letter in self.letters]
''',
        "data",
        "_target_: lsp.queries.alphabet.Alphabet\nletters: abc\n",
    )
    folder, summary, _ = two_steps("data=alphabet", "method=grpo")
    queries = {row["query"] for row in read_trace(folder)}
    assert queries == {"copy a", "copy b", "copy c"}
    assert summary["method"] == "grpo" and "copy a" in report_of(folder)
    assert "letters: abc" in planned("data=alphabet", "method=grpo")


def test_a_reward_with_a_model_of_its_own(install, two_steps, planned):
    install(
        "rewards",
        "confidence",
        '''
from lsp.model.shapes import shape_of


@settings
class Confidence(RewardSettings):
    """How sure a second model is that an answer begins with an a; 0 to 1."""

    name: str = setting("the second model")
    range = (0.0, 1.0)

    def own_models(self):
        return [OwnModel("float32", 64, 4096, shape_of(self.name, None, "reward.shape"))]

    def build(self, context: BuildContext) -> Reward:
        from lsp.model.language_model import load_model

        return ConfidenceScorer(*load_model(self.name, "float32", context.device))


class ConfidenceScorer(Reward):
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer, self.sizes = model, tokenizer, []

    def __call__(self, queries, answers):
        self.sizes = [float(len(answer)) for answer in answers]
        return [0.75 if answer.startswith("a") else 0.25 for answer in answers]

    def details(self):
        return {"size": self.sizes}
''',
        "reward",
        "_target_: lsp.rewards.confidence.Confidence\nname: pocket\n",
    )
    plain, more = planned(), planned("reward=confidence")
    assert "reward model" not in plain and "reward model" in more
    folder, _, _ = two_steps("reward=confidence")
    for row in read_trace(folder):
        if row["answer"] is not None:
            assert row["reward"] == (0.75 if row["answer"].startswith("a") else 0.25)
            assert json.loads(row["reward_details"]) == {"size": len(row["answer"])}
    assert "reward/external/size/mean" in read_metrics(folder)[-1]
    assert 0.25 <= read_metrics(folder)[-1]["reward/external/mean"] <= 0.75


def test_an_engine(install, two_steps, planned):
    install(
        "rollout",
        "parrot",
        '''
from lsp.types import Completion


@settings
class Parrot(EngineSettings):
    """Writes the same words whatever it is asked."""

    words: str = setting("what it writes")
    in_process = False

    def build(self, context: BuildContext) -> Engine:
        ids = context.chat.encode_text([self.words])[0]
        return ParrotEngine(self.words, (*ids, min(context.end_ids)))


class ParrotEngine(Engine):
    def __init__(self, words, ids):
        self.completion = Completion(ids, (-1.0,) * len(ids), words, "stop")

    def generate(self, model, prompts, samples, max_new_tokens, temperature, key):
        return [[self.completion] * samples for _ in prompts]
''',
        "rollout/engine",
        "_target_: lsp.rollout.parrot.Parrot\nwords: copy a\n",
    )
    folder, _, _ = two_steps("rollout.engine=parrot")
    rows = read_trace(folder)
    assert {(row["query"], row["answer"]) for row in rows} == {("copy a", "copy a")}
    assert read_metrics(folder)[-1]["rollout/distinct_query_frac"] == 0.25
    assert "KV cache" in planned() and "KV cache" not in planned("rollout.engine=parrot")
    assert "copy a" in report_of(folder)


def test_a_self_judge(install, two_steps, planned):
    install(
        "rewards",
        "length_judge",
        '''
@settings
class LengthJudge(SelfJudgeSettings, SelfJudge):
    """The longer the better, 7 at most."""

    lsp_weight: float = setting("w of method=lsp", gt=0, le=10)

    def build(self, context: BuildContext) -> SelfJudge:
        return self

    def score(self, queries, answers, key):
        return [float(min(7, len(answer))) for answer in answers], list(answers)
''',
        "self_reward",
        "_target_: lsp.rewards.length_judge.LengthJudge\nlsp_weight: 0.5\n",
    )
    folder, _, _ = two_steps("self_reward=length_judge")
    played = [row for row in read_trace(folder) if row["answer"] is not None]
    assert [row["quality"] for row in played] == [min(7, len(row["answer"])) for row in played]
    for row in played:
        assert row["solver_reward"] == pytest.approx(row["reward"] + 0.5 * row["quality"])
    assert "w=0.5" in planned("self_reward=length_judge")
    assert "Quality R_Q" in report_of(folder)


def test_an_evaluator(install, two_steps, planned):
    install(
        "pocket",
        "layers",
        '''
@settings
class LayersEvaluation(EvaluatorSettings, Evaluator):
    """The size of a model's first weight on each split."""

    every: int = setting("steps between evaluations", ge=0, le=1000)
    name = "layers"
    labels = {"weight": "first weight"}

    def build(self, context: BuildContext) -> Evaluator:
        return self

    def metrics(self, model, split):
        return {"weight": next(model.parameters()).float().norm().item(), "tests": split == "test"}
''',
        "eval",
        "_target_: lsp.pocket.layers.LayersEvaluation\nevery: 1\n",
    )
    folder, summary, printed = two_steps("eval=layers", "objective=eval/layers/weight")
    steps = [line for line in read_metrics(folder) if "eval/layers/weight" in line]
    assert [line["step"] for line in steps] == [0, 1, 2]
    assert steps[0]["eval/layers/tests"] == 0 and summary["final/tests"] == 1
    assert summary["base/weight"] == pytest.approx(steps[0]["eval/layers/weight"])
    assert summary["final/weight"] == pytest.approx(steps[-1]["eval/layers/weight"])
    assert summary["best/eval/layers/weight"] == max(s["eval/layers/weight"] for s in steps[1:])
    assert not any(key.startswith("last/eval/pocket") for key in summary)
    assert "first weight" in printed and "first weight" in report_of(folder)
    assert "eval/layers/weight" in planned("eval=layers", "objective=eval/layers/weight")


def test_a_tracker(install, two_steps):
    install(
        "tracking",
        "notebook",
        '''
import json
from pathlib import Path


@settings
class Notebook(TrackerSettings):
    """Notes in one file of the run's folder."""

    file: str = setting("its name")
    finish_seconds: int = setting("how long the end waits for it", ge=1, le=60)

    def announcement(self):
        return f"notes: {self.file}"

    def build(self, context: BuildContext) -> Tracker:
        return NotebookTracker(context.run.folder / self.file)


class NotebookTracker(Tracker):
    def __init__(self, path):
        self.path = path

    def note(self, *words):
        with self.path.open("a") as stream:
            stream.write(json.dumps(words) + "\\n")

    def log(self, step, metrics, rows):
        self.note("log", step, len(rows))

    def checkpoint(self, folder, step):
        self.note("checkpoint", step)

    def alert(self, step, text):
        self.note("alert", step, text)

    def finish(self, summary):
        self.note("finish", summary["status"])
''',
        "tracker",
        "_target_: lsp.tracking.notebook.Notebook\nfile: notes.jsonl\nfinish_seconds: 60\n",
    )
    folder, _, printed = two_steps("tracker=notebook")
    assert printed.startswith("notes: notes.jsonl\n")
    notes = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]
    rows = [len([r for r in read_trace(folder) if r["step"] == step]) for step in (1, 2)]
    assert notes == [
        ["log", 0, 0],
        ["log", 1, rows[0]],
        ["log", 2, rows[1]],
        ["checkpoint", 2],
        ["finish", "finished"],
    ]
