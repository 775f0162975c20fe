"""The comparison of variants: file, numbers by hand, picture, and a small real one."""

import csv
import math
import shutil
from dataclasses import fields

import pytest
import yaml

from lsp.errors import RunError
from lsp.files import write_csv
from lsp.pocket.pretrain import BASE_FOLDER
from lsp.pocket.world import PocketWorld
from lsp.report.game import read_index
from lsp.report.river import ILLEGAL, query_shares, smoothed
from lsp.settings.compose import compose
from lsp.tools.places import ROOT
from lsp.tracking.reader import read_trace, trace_steps
from sweeps.compare import (
    Contrasts,
    all_runs,
    by_unit,
    claims_text,
    differences,
    draw_queries,
    main,
    read_contrasts,
    read_rows,
    spread,
    train_all,
    variants_table,
)
from sweeps.rows import InstructionsRow, PocketRow


def row(variant, base, seed, accuracy):
    others = dict.fromkeys([field.name for field in fields(PocketRow)], 0.5)
    return PocketRow(
        **{**others, "variant": variant, "base": base, "seed": seed, "accuracy": accuracy}
    )


ROWS = [
    row("lsp", 1, 0, 0.7), row("lsp", 1, 1, 0.8), row("lsp", 2, 0, 0.9), row("lsp", 2, 1, 0.9),
    row("frozen", 1, 0, 0.6), row("frozen", 1, 1, 0.6), row("frozen", 2, 0, 0.8),
]  # fmt: skip


def test_numbers_by_hand():
    assert spread([1.0, 3.0], 3) == "2.000 ± 1.414" and spread([0.5], 1) == "0.5 ± 0.0"
    assert by_unit(ROWS[:4], "accuracy") == pytest.approx([0.75, 0.9])


def test_differences_are_paired_by_base_and_seed():
    found = differences(ROWS, "lsp", "frozen")
    assert found.keys() == {1, 2}  # the second seed of base 2 has no partner
    assert found[1] == pytest.approx([0.1, 0.2]) and found[2] == pytest.approx([0.1])


def test_the_variants_table_is_over_bases():
    lines = variants_table(ROWS).splitlines()
    assert lines[2].startswith("| base | 0.500 ± 0.000 |")
    assert lines[3].startswith("| lsp | 0.825 ± 0.106 |")


def test_a_family_of_claims():
    text = claims_text(ROWS, {"Learning": [["lsp", "frozen"], ["frozen", "lsp"]]})
    assert text.startswith("Learning:\n")
    # Means .15 and .1: .125 ± 12.706 x .025; t = 5, one degree of freedom: p = .126, twice that.
    assert "| lsp − frozen | +0.125 | -0.193 to +0.443 | 2 of 2 | 0.13 | 0.25 | not shown |" in text
    assert "| frozen − lsp | -0.125 |" in text and "0 of 2" in text


def test_a_row_is_read_off_a_summary():
    names = {*PocketRow.numbers, "effective_support", "nash_conv"} - {"accuracy_5_to_8"}
    summary = {f"final/{name}": 0.25 for name in names}
    summary |= {f"final/accuracy/length_{n}": n / 10 for n in range(1, 9)}
    found = PocketRow.of("lsp", 3, 1, {**summary, "base/accuracy": 0.5, "seconds": 9.0})
    assert (found.variant, found.base, found.seed) == ("lsp", 3, 1)
    assert found.accuracy_5_to_8 == pytest.approx(0.65) and found.base_accuracy == 0.5


def test_what_only_the_exact_game_tells_may_be_missing():
    """A run with eval.exact=false: the number is no number in its row, its column is left out."""
    names = ("accuracy", "greedy_accuracy", "valid_query_frac", "argument_length")
    summary = dict.fromkeys([f"final/{name}" for name in names], 0.25)
    summary |= {f"final/accuracy/length_{n}": 0.5 for n in range(1, 9)}
    found = PocketRow.of("lsp", 3, 1, {**summary, "base/accuracy": 0.5, "seconds": 9.0})
    assert math.isnan(found.challenger_gap) and math.isnan(found.coverage)
    headings = variants_table([found]).splitlines()[0]
    assert "legal queries" in headings and "gap" not in headings
    with pytest.raises(TypeError, match="accuracy"):  # what every run tells may not
        PocketRow.of(
            "lsp",
            3,
            1,
            {k: v for k, v in summary.items() if k != "final/accuracy"}
            | {"base/accuracy": 0.5, "seconds": 9.0},
        )


def test_rows_that_are_known_need_no_runs(tmp_path):
    write_csv(tmp_path / "rows.csv", ROWS)
    known = read_rows(tmp_path / "rows.csv")
    assert list(known.values()) == ROWS and known["lsp", 1, 1].accuracy == 0.8
    contrasts = Contrasts((1, 2), 1, 1, {"frozen": [], "lsp": []}, {})
    rows = train_all(all_runs(contrasts), tmp_path, contrasts, 1, known)
    assert [(r.variant, r.base, r.accuracy) for r in rows] == [
        ("frozen", 1, 0.6), ("lsp", 1, 0.7), ("frozen", 2, 0.8), ("lsp", 2, 0.9)
    ]  # fmt: skip
    assert draw_queries(all_runs(contrasts), tmp_path) is None  # their traces are elsewhere
    (tmp_path / "other.csv").write_text("variant,speed\nlsp,1\n")
    for name in ("other.csv", "nowhere.csv"):
        with pytest.raises(RunError, match=f"{name} holds no rows of sweeps.compare"):
            read_rows(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["contrasts", "rules", "estimators", "rung_1m", "rung_10m", "instructions"]
)
def test_every_variant_of_the_files_is_a_run(name):
    contrasts = read_contrasts(ROOT / f"sweeps/{name}.yaml")
    for overrides in contrasts.variants.values():
        world = [f"world={contrasts.world}", *["model=smollm2_135m"] * (name == "instructions")]
        compose([*world, "num_steps=150", *overrides, "tracker=none"])


def test_variants_of_both_files_are_the_same_runs():
    one, other = (read_contrasts(ROOT / f"sweeps/{n}.yaml") for n in ("contrasts", "rules"))
    assert (one.bases, one.seeds, one.steps) == (other.bases, other.seeds, other.steps)
    assert len(one.bases) >= 8
    for shared in one.variants.keys() & other.variants.keys():
        assert one.variants[shared] == other.variants[shared]


def test_runs_go_seed_by_seed():
    runs = all_runs(Contrasts((1, 2), 2, 1, {"a": [], "b": []}, {}))
    assert [(r.seed, r.base, r.variant) for r in runs[:5]] == [
        (0, 1, "a"), (0, 1, "b"), (0, 2, "a"), (0, 2, "b"), (1, 1, "a"),
    ]  # fmt: skip


GOOD = {"bases": [1], "seeds": 1, "steps": 2, "variants": {"a": ["method=lsp"]},
        "families": {"x": [["a", "a"]]}}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bases": []}, "has no usable 'bases'; see sweeps/contrasts.yaml"),
        ({"seeds": "two"}, "has no usable 'seeds'"),
        ({"speed": 1}, "speed is no key here"),
        ({"world": "paper"}, "world=paper is none of pocket, instructions"),
        ({"size": "2M"}, "size=2M is none of 0.1M, 1M, 10M"),
        ({"variants": {"a": "method=lsp"}}, "variant a is no list of overrides"),
        ({"families": {"x": [["a", "b"]]}}, "b is no variant of its own"),
        ({"families": {"x": [["a"]]}}, r"\['a'\] is no variant"),
    ],
)
def test_a_bad_file_of_contrasts(tmp_path, change, says):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(RunError, match=says):
        read_contrasts(path)


def test_claims_without_an_interval_are_refused_before_the_runs(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "seeds": 3}))
    with pytest.raises(SystemExit, match="one base and one seed have no interval; say seeds=2 or"):
        main([f"contrasts={path}", "seeds=1", f"folder={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a: [", "just words", ""])
def test_a_file_of_contrasts_that_is_none(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=r"mine.yaml.*"):
        read_contrasts(path)
    with pytest.raises(RunError, match="nowhere.yaml"):
        read_contrasts(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["speed=1"], "speed=1: no such setting. Did you mean seeds."),
        (["seeds=none"], "seeds=none: must be a whole number"),
        (["signs"], "signs is no setting; write key=value"),
        (["contrasts=nowhere.yaml"], "error: nowhere.yaml"),
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


SMALL = {"bases": [1, 2], "seeds": 1, "steps": 1,
         "variants": {"lsp": ["method=lsp"], "lsp_zero": ["method=lsp_zero"]},
         "families": {"Quality": [["lsp", "lsp_zero"]]}}  # fmt: skip


@pytest.mark.slow
def test_a_small_comparison_ends_in_tables_and_picture_and_resumes(tmp_path, capfd):
    """The shipped base stands in for two pretrained ones; one step of each variant."""
    for base in (1, 2):
        shutil.copytree(BASE_FOLDER, tmp_path / f"base-{base}/model")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = [f"contrasts={tmp_path}/mine.yaml", "workers=2", f"folder={tmp_path}"]
    main(arguments)
    out, err = capfd.readouterr()
    assert "| lsp_zero | " in out and "| lsp − lsp_zero | +0.000 |" in out
    assert err.count("run.py") == 4
    assert (tmp_path / "queries.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "mine.csv").read_text()
    assert len(list(csv.DictReader(text.splitlines()))) == 4
    main(arguments)
    assert (tmp_path / "mine.csv").read_text() == text


def test_seeds_of_one_base_are_what_a_language_model_has():
    """Each seed is a difference of its own; the base's numbers stand in the first line."""
    others = dict.fromkeys([field.name for field in fields(InstructionsRow)], 0.25)
    rows = [
        InstructionsRow(
            **{**others, "variant": name, "base": 0, "seed": seed, "held_out_reward": value}
        )
        for name, values in {"lsp": [0.5, 0.6, 0.7], "grpo": [0.4, 0.4, 0.4]}.items()
        for seed, value in enumerate(values)
    ]
    found = differences(rows, "lsp", "grpo")
    assert {seed: round(d, 3) for seed, (d,) in found.items()} == {0: 0.1, 1: 0.2, 2: 0.3}
    assert by_unit(rows[:3], "held_out_reward") == [0.5, 0.6, 0.7]
    lines = variants_table(rows).splitlines()
    assert lines[2].startswith("| base | 0.250 ± 0.000 | 0.250")
    assert lines[3].startswith("| lsp | 0.600 ± 0.100 |")
    # .2 ± 4.303 x .0577: Student with two degrees of freedom
    text = claims_text(rows, {"Data": [["lsp", "grpo"]]})
    assert "seeds above 0" in text and "| +0.200 | -0.048 to +0.448 | 3 of 3 |" in text


def test_other_worlds_need_no_bases(tmp_path):
    tree = {key: value for key, value in GOOD.items() if key != "bases"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree | {"world": "instructions"}))
    assert read_contrasts(tmp_path / "mine.yaml").bases == (0,)


@pytest.mark.parametrize(
    ("world", "own"),
    [
        ("pocket", ["model.name=", "eval.every=0"]),
        ("instructions", ["world=instructions", "eval.every=30"]),
    ],
)
def test_the_command_line_of_a_run(tmp_path, monkeypatch, world, own):
    """Of a base that is there already; what holds for all runs stands behind a variant's own."""
    (tmp_path / "base-1" / "model").mkdir(parents=True)
    (tmp_path / "base-1" / "model" / "pretrain.json").touch()
    made = []
    monkeypatch.setattr(
        "sweeps.compare.require_all", lambda *stages: made.extend(c for s in stages for c in s[0])
    )
    monkeypatch.setattr("sweeps.compare.read_summary", lambda folder: {})
    contrasts = Contrasts((1,), 1, 7, {"lsp": ["method=lsp"]}, {}, world=world)
    with pytest.raises(KeyError, match="seconds|final/"):  # nothing was run
        train_all(all_runs(contrasts), tmp_path, contrasts, 1, {}, ["data.path=mine.jsonl"])
    (words,) = made
    assert words[0] == "run.py" and {"num_steps=7", "seed=0", "resume=auto"} <= set(words)
    assert all(any(word.startswith(text) for word in words) for text in own)
    assert words.index("data.path=mine.jsonl") > words.index("method=lsp")
