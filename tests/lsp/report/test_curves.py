"""Curves of one run and of several, for the page and as a picture."""

import math
import re
from dataclasses import replace

import pytest

from lsp.report import curves
from lsp.report.record import read_record
from lsp.run.folder import update_run
from lsp.tracking.labels import COLOURS


def test_one_run_has_a_panel_a_title_and_both_roles_in_their_colours(run):
    record = read_record(run)
    panels = curves.panels({"lsp": [record]})
    assert {*panels} <= {*curves.PANELS, "Exact accuracy, dev split"}
    solver, challenger = panels["Reward of each role"]
    assert (solver.label, solver.colour) == ("Solver's reward", COLOURS["solver"])
    assert (challenger.label, challenger.colour) == ("Challenger's reward", COLOURS["challenger"])
    assert [p[:2] for p in solver.points] == record.series("reward/solver/mean")
    (accuracy,) = panels["Exact accuracy, dev split"]
    assert [p[:2] for p in accuracy.points] == record.series("eval/pocket/accuracy")


def test_the_panel_of_an_evaluation_is_named_by_its_first_label(run, edit_json):
    update_run(run, evaluation={"name": "mine", "labels": {"score": "my score"}})
    line = '{"step": 3, "reward/solver/mean": 1.0, "eval/mine/score": 0.75}\n'
    (run / "metrics.jsonl").write_text(line)
    panels = curves.panels({"lsp": [read_record(run)]})
    assert [line.points for line in panels["My score, dev split"]] == [[(3, 0.75, 0.0)]]
    update_run(run, evaluation=None)
    assert list(curves.panels({"lsp": [read_record(run)]})) == ["Reward of each role"]


def test_what_was_predicted_is_dashed_beside_it_and_gaps_share_a_panel(run):
    labels = {"score": "my score", "nash_conv": "NashConv", "solver_gap": "Solver's gap", "x": "x"}
    update_run(run, evaluation={"name": "mine", "labels": labels})
    line = '{"step": 3, "eval/mine/score": 0.75, "eval/mine/predicted/score": 0.9,'
    line += ' "eval/mine/x": 1.0, "eval/mine/nash_conv": 0.5, "eval/mine/solver_gap": 0.125}\n'
    (run / "metrics.jsonl").write_text(line)
    record = read_record(run)
    panels = curves.panels({"lsp": [record]})
    measured, predicted = panels["My score, dev split"]
    assert (measured.dashes, predicted.dashes) == ("-", "--")
    assert predicted.points == [(3, 0.9, 0.0)] and predicted.label == "predicted from the base"
    gaps = panels["Worth of the best response beyond one's own"]
    assert [(line.label, line.points) for line in gaps] == [
        ("NashConv", [(3, 0.5, 0.0)]), ("Solver's gap", [(3, 0.125, 0.0)])
    ]  # fmt: skip
    assert "X, dev split" not in panels
    # Beside other experiments each metric has its panel, and predictions are left out.
    several = curves.panels({"one": [record], "other": [record]})
    assert [line.label for line in several["My score, dev split"]] == ["one", "other"]
    assert [line.label for line in several["NashConv"]] == ["one", "other"]


def test_several_experiments_have_a_panel_a_metric(run):
    record = read_record(run)
    panels = curves.panels({"one": [record], "other": [record, record]})
    lines = panels["KL of the Solver (k2)"]
    assert [(line.label, line.colour) for line in lines] == [
        ("one", curves.GROUP_COLOURS[0]), ("other", curves.GROUP_COLOURS[1])
    ]  # fmt: skip
    assert "Reward of each role" not in panels and "External reward R" in panels


def test_the_picture_of_a_run_shows_the_panels_of_its_report(run, monkeypatch):
    drawn = []
    draw_panel = curves.draw_panel
    monkeypatch.setattr(curves, "draw_panel", lambda *a: drawn.append(a[1]) or draw_panel(*a))
    record = read_record(run)
    curves.save_curves(record, run / "again.png")
    assert drawn == list(curves.panels({"": [record]}))
    assert (run / "again.png").read_bytes()[:4] == b"\x89PNG"


def test_means_and_bands_over_seeds(run):
    one = read_record(run)
    points = [(1, 2.0), (2, 4.0)], [(1, 4.0), (3, 9.0)]
    records = [replace(one, derived={"x": series}) for series in points]
    # Step 1 alone is in both: mean 3, standard deviation sqrt(2).
    assert curves.mean_curve(records, "x") == [(1, 3.0, pytest.approx(math.sqrt(2)))]


def test_a_chart_is_fit_for_the_page():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], label="<b>&")
    figure.axes[0].legend()
    svg = curves.inline_svg(figure)
    assert svg.startswith("<svg viewBox=") and "style" not in svg and "<b>" not in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids)) and all(i.startswith("c") for i in ids)
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)
