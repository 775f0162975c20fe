"""The comparison of methods: its numbers by hand, its picture's data, and a small real one."""

import json
import shutil

import pytest

from lsp.pocket.pretrain import BASE_FOLDER
from lsp.pocket.world import PocketWorld
from lsp.report.game import read_index
from lsp.report.river import ILLEGAL, query_shares, smoothed
from lsp.tracking.reader import read_trace, trace_steps
from sweeps.compare import Run, from_length, main, methods_text, paired, signs_text, spread


def summary(accuracy, **more):
    values = {f"{side}/accuracy/length_{n}": accuracy + n / 100 for n in range(1, 9)
              for side in ("base", "final")}  # fmt: skip
    for side in ("base", "final"):
        values |= {f"{side}/accuracy": accuracy, f"{side}/greedy_accuracy": accuracy,
                   f"{side}/valid_query_frac": 1.0, f"{side}/distinct_query_frac": 0.5,
                   f"{side}/argument_length": 2.0}  # fmt: skip
    return {**values, "final/wins": 3, "final/ties": 2, "final/losses": 1, **more}


def rows_of(**accuracies):
    """Variant -> accuracies over seeds, on one base."""
    return {
        Run(variant.replace("__", ", "), (), 1, 0.7, 150, seed): summary(value)
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    }


def test_numbers_by_hand():
    assert spread([1.0, 3.0]) == "2.000 ± 1.414" and spread([0.5], 1) == "0.5 ± 0.0"
    assert from_length(summary(0.5), 7) == pytest.approx(0.575)


def test_differences_are_paired_by_seed_and_base():
    rows = rows_of(lsp=[0.5, 0.7], grpo=[0.6, 0.6])
    assert paired(rows, "lsp", "grpo", 1) == pytest.approx([-0.1, 0.1])
    assert paired(rows, "lsp", "frozen_challenger", 1) == []


def test_the_methods_table():
    text = methods_text(rows_of(lsp=[0.5, 0.7], grpo=[0.6, 0.6]))
    assert "| lsp | 0.600 ± 0.141 |" in text and "| 3 / 2 / 1 |" in text
    assert "| lsp - grpo | +0.000 |" in text and "1 of 2" in text
    assert "untrained" not in text


def test_the_map_of_signs():
    variants = {"lsp": [0.7, 0.8], "lsp__variance": [0.5, 0.6], "lsp__band": [0.4, 0.9],
                "lsp_zero": [0.1, 0.2], "untrained_challenger": [0.5, 0.6],
                "frozen_challenger": [0.6, 0.7]}  # fmt: skip
    lines = signs_text(rows_of(**variants)).splitlines()
    cell = {tuple(line.split(" | ")[2:4]): line.split(" | ")[4] for line in lines[2:10]}
    assert cell["lsp", "frozen_challenger"] == "+ (+0.100)"
    assert cell["lsp, variance", "untrained_challenger"] == "0 (+0.000)"
    assert cell["lsp_zero", "frozen_challenger"] == "- (-0.500)"
    assert cell["lsp, band", "untrained_challenger"].startswith("0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["part=x"], "error: .*part=x: is no choice here. Choose one of methods, signs."),
        (["speed=1"], "speed=1: no such setting. Did you mean seeds."),
        (["bases=1"], "bases=1: must be a list of whole numbers. Write bases="),
        (["signs"], "signs is no setting; write key=value"),
    ],
)
def test_bad_settings(arguments, says):
    with pytest.raises(SystemExit, match=f"(?s){says}"):
        main(arguments)


@pytest.mark.parametrize("kinds", PocketWorld().kinds(()), ids=lambda kinds: kinds.title)
def test_shares_of_queries_add_up_and_match_the_trace(small_run, kinds):
    folder, _ = small_run
    queries = read_index(folder, PocketWorld()).queries
    steps, shares = list(queries), query_shares(queries, kinds)
    assert steps == trace_steps(folder)
    for i, step in enumerate(steps):
        assert sum(series[i] for series in shares.values()) == pytest.approx(1.0)
        texts = {row["query_id"]: row["query"] for row in read_trace(folder, [step])}
        copies = sum(text.startswith("copy ") for text in texts.values()) / len(texts)
        if kinds.title == "family" and shares[ILLEGAL][i] == 0:
            assert shares["copy"][i] == pytest.approx(copies)


def test_smoothing_by_hand():
    assert smoothed([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


@pytest.mark.slow
def test_a_small_comparison_ends_in_table_and_picture_and_resumes(tmp_path, capfd):
    """The shipped base stands in for a pretrained one; one step of each variant."""
    shutil.copytree(BASE_FOLDER, tmp_path / "base-1-decay-0.7")
    arguments = ["seeds=1", "bases=[1]", "steps=[1]", "workers=2", f"folder={tmp_path}"]
    main(arguments)
    out, err = capfd.readouterr()
    assert "| lsp, exact KL |" in out and "| lsp - frozen_challenger |" in out
    assert err.count("run.py") == 8
    assert (tmp_path / "queries.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "methods.json").read_text())) == 8
    before = (tmp_path / "methods.json").read_text()
    main(arguments)
    assert (tmp_path / "methods.json").read_text() == before
