"""The paper's world through the same code, on random models of the same architectures."""

import json

import pytest

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.paper.world import PaperWorld, opening
from lsp.settings.compose import CONF, compose
from lsp.tracking.reader import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")
# The judge's prompt alone has some 700 tokens under the tests' tokenizer: a shorter one.
SHORT = ["prompts.judge='rate it'", "prompts.challenger='ask {task}{template}'"]


@pytest.fixture
def paper(llama_folder, classifier_folder, tmp_path):
    data = tmp_path / "alpaca.jsonl"
    rows = [{"instruction": f"Write poem {i}.", "input": "the sea" * (i % 2)} for i in range(6)]
    data.write_text("\n".join(map(json.dumps, rows)))
    return [
        "world=paper",
        f"model.name={llama_folder}",
        "model.dtype=float32",
        f"reward.name={classifier_folder}",
        "reward.dtype=float32",
        f"data.path={data}",
        "tracker=none",
        "num_steps=2",
        "num_queries=3",
        "group_size=2",
        "rollout.max_new_tokens=8",
        "rollout.max_query_tokens=8",
        "self_reward.max_new_tokens=8",
        f"run_dir={tmp_path / 'run'}",
    ]


@pytest.mark.parametrize("mode", ["expected", "generate"])
@pytest.mark.parametrize("method", ["grpo", "lsp"])
def test_methods_train_on_free_text(paper, train_in_memory, method, mode):
    lines, rows = train_in_memory([*paper, *SHORT, f"method={method}", f"self_reward.mode={mode}"])
    assert [line["step"] for line in lines] == [1, 2]
    if method == "grpo":
        assert len(rows) == 2 * 3 * 2
        assert {row["query"] for row in rows} <= {
            f"Write poem {i}." + "\n\nthe sea" * (i % 2) for i in range(6)
        }
        assert all(row["reward"] is not None for row in rows)
        assert lines[0]["kl/solver/k2"] < 1e-6
        assert lines[-1]["reward/external/truncated/mean"] == 0
        assert {row["reward_details"] for row in rows} == {'{"truncated": 0.0}'}
    else:
        # A random model rarely ends its query in eight tokens: what is cut is recorded.
        assert {row["query_finish_reason"] for row in rows} <= {"length", "stop", "empty"}
        assert len({row["query_id"] for row in rows}) == 6


def test_what_the_reward_model_cuts_is_counted(paper, train_in_memory):
    lines, _ = train_in_memory([*paper, "method=grpo", "reward.max_length=8", "num_steps=1"])
    assert lines[-1]["reward/external/truncated/mean"] == 1


def test_a_prompt_beyond_the_context_is_one_message(paper):
    with pytest.raises(
        RunError, match="the Challenger may need .* and the model's context has 512"
    ):
        start([*paper, "method=lsp"])


def test_a_wrong_reward_model_is_one_message(paper, llama_folder):
    with pytest.raises(RunError, match="is no reward model"):
        start([*paper, "method=grpo", f"reward.name={llama_folder}"])


def test_a_digit_of_several_tokens_needs_generate(paper, monkeypatch):
    from lsp.model.chat import ChatFormat

    real = ChatFormat.encode

    def in_two_tokens(self, conversations):
        lasts = [messages[-1][1][-1:] for messages in conversations]
        rows = zip(real(self, conversations), lasts, strict=True)
        return [row + [1] * last.isdigit() for row, last in rows]

    monkeypatch.setattr(ChatFormat, "encode", in_two_tokens)
    with pytest.raises(RunError, match="choose self_reward.mode=generate"):
        start([*paper, *SHORT, "method=lsp"])


def test_exact_kl_is_refused_for_a_large_vocabulary(paper, monkeypatch):
    monkeypatch.setattr("lsp.learner.EXACT_KL_VOCABULARY", 100)
    with pytest.raises(RunError, match="at most 100; choose k2"):
        start([*paper, "method=grpo", "method.kl_estimator=exact"])


def test_the_pocket_worlds_tasks_and_evaluation_take_another_tokenizer(llama_folder, tmp_path):
    short = ["prompts.solver='answer only'", "prompts.challenger='ask {task}{template}'"]
    short += ["prompts.judge='rate it'"]  # the whole prompts exceed this model's context
    start(
        ["experiment=transfer/strings_0.5b", "hardware=cpu", f"model.name={llama_folder}", *short,
         "tracker=none", "num_steps=2", "num_queries=3", "group_size=2", "eval.dev_per_cell=1",
         "eval.test_per_cell=1", "eval.challenger_samples=4", f"run_dir={tmp_path / 'run'}"]
    )  # fmt: skip
    line = read_metrics(tmp_path / "run")[-1]
    assert 0 <= line["eval/pocket/accuracy"] <= 1 and "eval/pocket/valid_query_frac" in line


EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for path in (CONF / "experiment").rglob("*.yaml")
)


@pytest.fixture(scope="module")
def earlier_run():
    """``earlier_run(method, sizes, folder)``: the folder of a finished run, made once a method."""
    made = {}

    def run_of(method, sizes, folder):
        if method not in made:
            sizes = [text for text in sizes if not text.startswith("run_dir=")]
            start([*sizes, *SHORT, "world=paper", f"method={method}", "init=base",
                   f"run_dir={folder}"])  # fmt: skip
            made[method] = folder
        return made[method]

    return run_of


def shrunk(paper, name, hardware, earlier_run, folder):
    """An experiment's overrides with its sizes shrunk; on the GPU of 24 GB by LoRA in bfloat16."""
    sizes = [text for text in paper if not text.startswith(("world=", "model.dtype="))]
    if name.startswith("transfer/"):  # its reward and data are the pocket world's
        sizes = [text for text in sizes if not text.startswith(("reward.", "data."))]
    if name.startswith(("laptop/", "instructions/")):  # its reward needs no model
        sizes = [text for text in sizes if not text.startswith("reward.")]
    if name.startswith("instructions/"):  # four shots are beyond the tiny model's context
        sizes += ["prompts.challenger_shots=1", "eval.challenger_samples=2", "eval.every=0"]
    if "_from_" in name:
        first = earlier_run(name.rpartition("_from_")[2], sizes, folder)
        sizes.append(f"init.run={first}")
    gpu = [] if hardware is None else [f"hardware={hardware}", "hardware.tokens_per_second=null"]
    return [f"experiment={name}", *gpu, *sizes, *SHORT, "runtime.device=cpu"]


@pytest.mark.parametrize("hardware", [None, pytest.param("gpu_24gb", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_two_steps_with_its_sizes_shrunk(
    paper, tmp_path, train_in_memory, earlier_run, name, hardware
):
    """Through the code that loads from the Hub. (Whole runs of two of them: below.)"""
    overrides = shrunk(paper, name, hardware, earlier_run, tmp_path / "first")
    lines, rows = train_in_memory(overrides)
    assert [line["step"] for line in lines] == [1, 2]
    config = compose(overrides)
    adapters = hardware is not None or name.startswith(("laptop/", "instructions/"))
    assert (config.model.lora.rank > 0) == adapters
    assert config.method.label == name.rpartition("/")[2].partition("_from_")[0] or (
        name.startswith(("transfer/", "small/", "instructions/"))
    )
    assert {row["source"] for row in rows} == {config.method.queries}


@pytest.mark.parametrize(
    ("name", "hardware"), [("paper_v1/lsp_from_grpo", None), ("paper_v3/grpo", "gpu_24gb")]
)
def test_whole_runs_of_an_experiment_from_an_earlier_run_and_by_lora(
    paper, tmp_path, earlier_run, name, hardware
):
    summary = start(shrunk(paper, name, hardware, earlier_run, tmp_path / "first"))
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if line["step"]] == [1, 2]
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert {"config.json", "model.safetensors", "trainer.safetensors"} <= {
        path.name for path in checkpoint.iterdir()
    }


def test_free_text_is_sorted_by_its_words_and_openings():
    queries = ["Write a poem", "Write a song about the sea", "Why?", "", "_private thing of mine"]
    words, openings = PaperWorld().kinds(queries)
    assert words.ordered and [words.kind_of(query) for query in queries] == [
        "1 to 5 words", "6 to 10 words", "1 to 5 words", "1 to 5 words", "1 to 5 words",
    ]  # fmt: skip
    assert words.kind_of("a " * 81) == words.names[-1] == "over 80 words"
    assert openings.names[0] == "write a" and openings.kind_of("write A story") == "write a"
    assert openings.kind_of("how many are there") == openings.names[-1] == "other openings"
    assert opening("_private thing of mine") == "private thing" and opening("") == "no words"


def test_free_text_has_no_known_answer_and_none_is_illegal():
    world = PaperWorld()
    assert world.is_legal("anything") and world.right_answer("anything") is None
    assert world.quality("a", "b") is None and not world.makes_earlier_runs
