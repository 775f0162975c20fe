"""A run's game: where it cannot be computed, what is kept, and what a run records of it."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open

from lsp.loop.launch import start
from lsp.pocket import exact
from lsp.pocket.equilibrium import kl_within
from lsp.pocket.evaluation import PREDICTED, PocketEvaluator
from lsp.pocket.exact import COLUMNS, SHIPPED, ExactPlay, obstacle, other_rule
from lsp.pocket.tables import AnsweredTable, asked_table, read_script
from lsp.settings.compose import compose
from lsp.tracking.reader import read_metrics
from lsp.types import DrawKey

REMAKE = "the shipped table is not the shipped base's: python -m lsp.pocket.exact"
GAPS = [f"{name}{end}" for name in ("challenger_gap", "solver_gap", "nash_conv")
        for end in ("", "_low", "_high")]  # fmt: skip
DESCRIBED = ("valid_query_frac", "query_entropy", "effective_support", "coverage",
             "argument_length")  # fmt: skip


def shipped_table():
    columns = load_file(SHIPPED)
    return AnsweredTable(*(columns[key].double() for key in COLUMNS))


@pytest.fixture(scope="module")
def asked(players):
    return asked_table(players.reference, read_script(players.chat, players.prompts))


@pytest.fixture
def quick(monkeypatch, asked):
    """Tables of any model are those of the shipped base; ``made`` counts what would be computed."""
    made = {"asked": 0, "answered": 0}

    def count(name, table):
        made[name] += 1
        return table

    monkeypatch.setattr(exact, "asked_table", lambda *a, **k: count("asked", asked))
    answered = lambda *a, **k: count("answered", shipped_table())  # noqa: E731
    monkeypatch.setattr(exact, "answered_table", answered)
    monkeypatch.setattr(exact, "DRAWN", 256)
    return made


def with_overrides(players, *overrides):
    return replace(players, config=compose(["tracker=none", *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [[], ["method=lsp_zero"], ["method=gated"], ["method=grpo"], ["reward.credit=exact"],
     ["rollout.temperature=0.7"], ["rollout.query_temperature=1.5"], ["method.beta=0"],
     ["model.lora.rank=4"], ["prompts.solver=brief"], ["method=lsp_zero", "self_reward=likelihood"],
     ["rollout.max_query_tokens=17", "rollout.max_new_tokens=9"]],
)  # fmt: skip
def test_nothing_is_in_the_way_of_an_ordinary_game(overrides):
    assert obstacle(compose(overrides)) is None


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("rollout.top_p=0.9", "rollout.top_p=0.9 samples from another distribution"),
        ("rollout.stop=[b]", "strings that end a completion"),
        ("prompts.challenger_stop=[b]", "strings that end a completion"),
        ("prompts.template_tags=[c]", "taken off one"),
        ("prompts.challenger_template='sort {x}'", "not asked with one prompt"),
        ("prompts.query_form='copy {written}'", "not asked with one prompt"),
        ("rollout.max_query_tokens=16", "token limits cut legal queries"),
        ("rollout.max_new_tokens=8", "token limits cut legal queries"),
        ("method.self_reward_weight=auto", "known after the first play only"),
        ("self_reward.mode=generate", "not self_reward.mode=expected"),
        ("self_reward=likelihood", "not self_reward.mode=expected"),
        ("reward=concise", "not the pocket verifier's"),
    ],
)
def test_each_obstacle_has_its_reason(override, reason):
    assert reason in obstacle(compose([override]))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=grpo"], "does not learn"),
        (["method=frozen_challenger"], "does not learn"),
        (["method=gated"], "are gated"),
        (["method.invalid_query=lowest"], "are gated"),
        (["method=spice"], "rewarded for something else"),
        (["method.repetition_penalty=1"], "rewarded for something else"),
        (["method.novelty_weight=1"], "rewarded for something else"),
        (["method.kl_estimator=k1"], "not that of KL"),
        (["method.kl_estimator=k3"], "not that of KL"),
        (["method.loss_aggregation=sequence_mean"], "weigh more or less"),
        (["method.divide_by_std=true"], "weigh more or less"),
    ],
)
def test_another_rule_has_gaps_and_no_prediction(overrides, reason):
    config = compose(overrides)
    assert obstacle(config) is None and reason in other_rule(config)


@pytest.mark.parametrize("method", ["lsp", "lsp_zero", "pool", "spiral"])
def test_the_papers_rule_is_predicted(method):
    overrides = [f"method={method}", "checkpoint.keep=3"]
    assert other_rule(compose(overrides)) is None


def evaluator(players, *overrides):
    players = with_overrides(players, *overrides)
    return PocketEvaluator(players.config.eval, players, players.reference)


def test_a_game_that_is_left_out_says_so_and_is_measured_by_draws(players, capsys, quick):
    sizes = ["eval.dev_per_cell=1", "eval.challenger_samples=8", "rollout.max_new_tokens=8"]
    measured = evaluator(players, *sizes).metrics(players.reference, "dev")
    reason = "its token limits cut legal queries or right answers"
    assert capsys.readouterr().out == f"the exact game is left out: {reason}\n"
    assert "distinct_query_frac" in measured and "nash_conv" not in measured
    assert quick == {"asked": 0, "answered": 0}


def test_prompts_that_cannot_be_read_leave_it_out_too(players, capsys, quick):
    evaluator(players, "prompts.solver='such as copy aabbccac'")
    evaluator(players, "prompts.judge_rubric='seven points'")
    said = capsys.readouterr().out.splitlines()
    assert "left out: eval.exact needs prompts.solver to be the query alone" in said[0]
    assert "left out: eval.exact needs a judge that is asked after query and answer" in said[1]


def test_several_end_tokens_leave_it_out(players, quick, monkeypatch):
    monkeypatch.setattr(exact, "end_token_ids", lambda model, chat: frozenset({1, 4}))
    with pytest.raises(ValueError, match=r"one token that ends a text; choose eval\.exact=false"):
        ExactPlay(players)


def test_a_run_by_another_rule_is_measured_and_not_predicted(players, capsys, quick):
    sizes = ["eval.dev_per_cell=1", "eval.test_per_cell=1"]
    for method, expected in (("gated", False), ("lsp_zero", True)):
        measured = evaluator(players, f"method={method}", *sizes).metrics(players.reference, "dev")
        assert set(GAPS) < set(measured)
        assert ("predicted/valid_query_frac" in measured) is expected
    assert capsys.readouterr().out == (
        "what this run comes to is not predicted: its queries are gated\n"
    )


def test_the_shipped_table_bears_the_shipped_bases_name(players, quick, tmp_path):
    """After a change of base, prompts or tables: python -m lsp.pocket.exact."""
    play = ExactPlay(with_overrides(players, f"runs_root={tmp_path}"))
    with safe_open(SHIPPED, "pt") as file:
        assert file.metadata()["name"] == play._name(players.reference), REMAKE
    assert quick["answered"] == 0 and not (tmp_path / "tables").exists(), REMAKE


@pytest.mark.slow
def test_a_table_is_kept_and_read_again_and_not_for_another_model(
    players, quick, monkeypatch, tmp_path
):
    monkeypatch.setattr(exact, "SHIPPED", tmp_path / "none")
    here = with_overrides(players, f"runs_root={tmp_path}")
    first, again = ExactPlay(here), ExactPlay(here)
    assert quick == {"asked": 2, "answered": 1}
    assert len(list((tmp_path / "tables").iterdir())) == 1
    for column in COLUMNS:
        one, two = (getattr(play.game.answered, column) for play in (first, again))
        assert torch.equal(one.nan_to_num(), two.nan_to_num())
    assert 0 < first.game.illegal_quality == again.game.illegal_quality < 7
    # A gate does not change what illegal queries are worth, which is kept for all runs.
    (file,) = (tmp_path / "tables").iterdir()
    file.unlink()
    gated = ExactPlay(with_overrides(players, f"runs_root={tmp_path}", "method.query_gate=legal"))
    assert gated.game.illegal_quality == first.game.illegal_quality
    # Another temperature, another judge, another model.
    ExactPlay(with_overrides(players, f"runs_root={tmp_path}", "rollout.temperature=0.9"))
    other_judge = ["method=lsp_zero", "self_reward=likelihood"]
    silent = ExactPlay(with_overrides(players, f"runs_root={tmp_path}", *other_judge))
    assert silent.game.illegal_quality == 0.0
    weight = next(players.reference.parameters())
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0] += 1e-3
        ExactPlay(here)
    finally:
        weight.data.copy_(before)
    assert len(list((tmp_path / "tables").iterdir())) == 4 and quick["answered"] == 5


def test_a_judge_unknown_to_the_tables_is_no_obstacle_without_a_weight(
    players, quick, monkeypatch, tmp_path
):
    """Its columns are NaN, which no metric sees."""
    unknown = replace(shipped_table(), quality_right_Q=None, quality_echo_Q=None)
    monkeypatch.setattr(exact, "answered_table", lambda *a, **k: unknown)
    here = with_overrides(players, f"runs_root={tmp_path}", "method=lsp_zero",
                          "prompts.judge_rubric='seven points'")  # fmt: skip
    play = ExactPlay(here)
    assert play.script.rate is None and play.game.answered.quality_right_Q.isnan().all()
    assert all(math.isfinite(value) for value in play.metrics(players.reference).values())


def test_a_policy_is_measured_once_until_it_changes(players, quick):
    play = ExactPlay(players)
    assert quick["asked"] == 1
    at_start = play.metrics(players.policy)  # the reference's weights
    assert quick == {"asked": 1, "answered": 0}
    assert at_start["challenger_kl"] == at_start["solver_kl"] == 0
    weight = next(players.policy.parameters())
    before = weight.detach().clone()
    try:
        for number in (1, 2):
            with torch.no_grad():
                weight[0, 0] += 1e-3
            assert play.metrics(players.policy) == play.metrics(players.policy)
            assert quick["answered"] == number and len(play._kept) == 2
    finally:
        weight.data.copy_(before)


def test_draws_of_an_atoms_members_tell_the_kl_that_it_hides():
    """Members .6 and .2 of a policy, .1 and .3 of the reference: three draws in four are the first.
    KL of all: .6 ln 6 + .2 ln 2/3 + .2 ln 1/3; over atoms: .8 ln 2 + .2 ln 1/3."""
    ratios = torch.tensor([6.0, 6.0, 6.0, 2 / 3]).double().log()
    expected = 0.6 * math.log(6) + 0.2 * math.log(2 / 3) - 0.8 * math.log(2)
    found = kl_within(math.log(0.8), math.log(0.4), ratios)
    assert found == pytest.approx(expected) and found == pytest.approx(0.439445, abs=1e-6)
    assert kl_within(math.log(0.8), math.log(0.4), ratios[:0]) == 0


def test_the_kl_by_draws_is_what_the_atoms_lack(players, asked, monkeypatch):
    """Against the KL of whole queries, of a policy some way off the reference."""
    shipped = shipped_table()
    monkeypatch.setattr(exact, "answered_table", lambda *a, **k: shipped)
    play, weights = ExactPlay(players), list(players.policy.parameters())
    before = [weight.detach().clone() for weight in weights]
    try:
        generator = torch.Generator().manual_seed(0)
        for weight in weights:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        found = play.metrics(players.policy)
        assert found["valid_query_frac"] < 0.9
        queries = players.ask(players.policy, 1024, DrawKey(3, 0, "test"))
        ratios = []
        for query in queries:
            ids = torch.tensor([[*query.prompt_ids, *query.completion.ids]])
            with torch.no_grad():
                logprobs = players.reference(ids).logits[0].log_softmax(-1)
            places = torch.arange(len(query.prompt_ids) - 1, ids.shape[1] - 1)
            reference = logprobs[places, ids[0, places + 1]].sum().item()
            ratios.append(sum(query.completion.logprobs) - reference)
        whole = torch.tensor(ratios).double()
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.data.copy_(old)
    both = found["challenger_kl"] + found["challenger_kl_unseen"]
    assert both == pytest.approx(whole.mean().item(), abs=4 * 2**0.5 * whole.std().item() / 32)
    assert found["challenger_kl_unseen"] > 0.02


def check_run(folder, summary):
    assert {f"{side}/{name}" for side in ("base", "final") for name in GAPS} < set(summary)
    on_disk = json.loads((folder / "summary.json").read_text())
    for side in ("base", "final"):
        for name in (*GAPS, *DESCRIBED, "challenger_kl", "solver_kl", "challenger_kl_unseen"):
            assert math.isfinite(on_disk[f"{side}/{name}"]), name
        assert f"{side}/distinct_query_frac" not in on_disk
        parts = on_disk[f"{side}/challenger_gap"] + on_disk[f"{side}/solver_gap"]
        assert on_disk[f"{side}/nash_conv"] == pytest.approx(parts)
    assert on_disk["base/solver_kl"] == on_disk["base/challenger_kl"] == 0
    lines = [line for line in read_metrics(folder) if "eval/pocket/nash_conv" in line]
    assert lines and all(
        f"eval/pocket/predicted/{name}" in line for line in lines for name in PREDICTED
    )
    return on_disk


def exactly(small, folder):
    overrides = ["eval.exact=true" if item == "eval.exact=false" else item for item in small]
    return [*overrides, "tracker=none", f"run_dir={folder}", f"runs_root={folder.parent}"]


def test_a_run_records_the_game(small, tmp_path, quick, without_pictures):
    folder = tmp_path / "run"
    check_run(folder, start(exactly(small, folder)))


@pytest.mark.slow
def test_a_run_records_its_own_policys_game(small, tmp_path, without_pictures):
    folder = tmp_path / "run"
    on_disk = check_run(folder, start(exactly(small, folder)))
    assert 0 <= on_disk["final/challenger_kl_unseen"] < 1
    assert 0 < on_disk["final/solver_kl"] < 1 and 0 < on_disk["final/challenger_kl"] < 1


@pytest.mark.slow
def test_a_run_on_a_device_records_what_one_on_the_cpu_does(small, tmp_path):
    folders = [tmp_path / "here", tmp_path / "there"]
    few = ["num_steps=1", *(item for item in small if not item.startswith("num_steps"))]
    here = start(exactly(few, folders[0]))
    command = json.dumps([["run.py", *exactly(few, folders[1])]])
    subprocess.run([sys.executable, "tests/fake_device.py", command], check=True,
                   cwd=Path(__file__).parents[3])  # fmt: skip
    there = json.loads((folders[1] / "summary.json").read_text())
    for name in GAPS:
        assert there[f"final/{name}"] == pytest.approx(here[f"final/{name}"], abs=1e-4)


@pytest.mark.slow
def test_the_shipped_table_is_what_the_command_makes(players, monkeypatch, tmp_path):
    monkeypatch.setattr(exact, "SHIPPED", tmp_path / "tables.safetensors")
    exact.main()
    made, shipped = load_file(exact.SHIPPED), load_file(SHIPPED)
    for column in COLUMNS:
        new, old = made[column].double(), shipped[column].double()
        if not column.startswith("quality"):
            new, old = new.exp(), old.exp()
        assert torch.allclose(new, old, atol=1e-5, equal_nan=True), f"{column}: {REMAKE}"
    with safe_open(exact.SHIPPED, "pt") as one, safe_open(SHIPPED, "pt") as other:
        found = [float(file.metadata()["illegal_quality"]) for file in (one, other)]
    assert found[0] == pytest.approx(found[1], abs=1e-3), REMAKE
