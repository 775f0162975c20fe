"""The shipped base is what docs/pocket.md says it is, and what the command makes."""

import json
import re
from pathlib import Path

import pytest
import torch

from lsp.model.chat import ChatFormat
from lsp.pocket import pretrain as pretraining
from lsp.pocket.evaluation import measure_skill
from lsp.pocket.language import evaluation_queries, parse
from lsp.pocket.pretrain import BASE_FOLDER, Corpus, PretrainSettings, build_tokenizer, main
from lsp.types import DrawKey

DOCS = Path(__file__).parents[3] / "docs" / "pocket.md"


def test_its_skills_are_those_of_the_table(players):
    skill = measure_skill(players.policy, players, evaluation_queries("test", 60))
    table = re.findall(r"^\| (\w+(?: \d)?) \| ([\d.]+) \| ([\d.]+) \|$", DOCS.read_text(), re.M)
    assert len(table) == 1 + 8 + 8
    for name, exact, greedy in table:
        word, _, length = name.partition(" ")
        cell = {"length": int(length)} if length else {} if name == "all" else {"family": word}
        assert skill.accuracy(**cell) == pytest.approx(float(exact), abs=2e-3), name
        assert skill.greedy_accuracy(**cell) == pytest.approx(float(greedy), abs=6e-3), name


def test_its_judge_holds_on_pairs_it_has_not_seen(players):
    corpus = Corpus(PretrainSettings(seed=99))
    pairs = [corpus.judge() for _ in range(500)]
    queries = [messages[0][1] for messages, _ in pairs]
    answers = [messages[1][1] for messages, _ in pairs]
    scores, _ = players.self_judge.score(queries, answers, DrawKey(0, 1, "judge"))
    close = [abs(score - int(true)) < 0.5 for score, (_, true) in zip(scores, pairs, strict=True)]
    assert sum(close) / len(close) > 0.95
    illegal = [s for s, query in zip(scores, queries, strict=True) if parse(query) is None]
    assert len(illegal) > 200 and sum(score >= 4 for score in illegal) / len(illegal) < 0.02


def test_it_was_made_by_the_committed_settings_and_is_small():
    recorded = json.loads((BASE_FOLDER / "pretrain.json").read_text())
    assert recorded == json.loads(json.dumps(PretrainSettings().record()))
    assert (BASE_FOLDER / "model.safetensors").stat().st_size < 1e6
    assert sum(f.stat().st_size for f in BASE_FOLDER.iterdir()) < 1e6


def test_the_corpus_teaches_prompts_that_the_game_uses(players):
    """What the corpus encodes is what the roles are asked, so the words cannot drift apart."""
    chat = ChatFormat(build_tokenizer())
    assert Corpus(PretrainSettings()).prompts == players.prompts
    messages = players.prompts.judge_messages("copy a", "a")
    assert chat.encode([messages]) == players.chat.encode([messages])


def test_the_command_makes_a_model_and_refuses_what_it_does_not_know(tmp_path, capsys):
    main([f"out={tmp_path / 'base'}", "steps=2", "batch=4"])
    assert (tmp_path / "base" / "model.safetensors").is_file()
    for bad, says in (
        (
            ["speed=3", "steps=0"],
            "2 problems .*steps=0: must be at least 1.*speed=3: no such setting",
        ),
        (["careless=[0.1]"], "careless needs 8 values, one for each length"),
        (["base"], "base is no setting; write key=value"),
    ):
        with pytest.raises(SystemExit, match=f"(?s){says}"):
            main(bad)


def test_corpus_shows_no_query_of_the_other_splits():
    corpus = Corpus(PretrainSettings())
    held_out = {task.query for name in ("dev", "test") for task in evaluation_queries(name, 10**6)}
    shown = {corpus.solver()[0][0][1] for _ in range(3000)}
    shown |= {corpus.challenger()[1] for _ in range(1000)}
    assert not shown & held_out


def test_a_schooling_that_was_cut_goes_on_and_ends_in_the_same_base(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretraining, "KEPT_EVERY", 2)
    words, clip, calls = ["steps=5", "batch=2"], torch.nn.utils.clip_grad_norm_, []

    def cut(parameters, limit):
        calls.append(limit)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return clip(parameters, limit)

    main([*words, f"out={tmp_path / 'whole'}"])
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr("torch.nn.utils.clip_grad_norm_", cut)
        main([*words, f"out={tmp_path / 'cut'}"])
    with pytest.raises(SystemExit, match="of another schooling: go on with its settings"):
        main([*words, "seed=1", f"out={tmp_path / 'cut'}"])
    main([*words, f"out={tmp_path / 'cut'}"])
    said = capsys.readouterr().err
    assert "goes on after step 4\nstep 5/5  loss " in said and "step 1/5  loss " in said
    files = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "cut").iterdir()} == files


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="^error: device=cuda: torch sees no CUDA device; choose"):
        main(["device=cuda", f"out={tmp_path / 'base'}"])
    assert not (tmp_path / "base").exists()
