"""Curves of one run and of several, for the page and as a picture."""

import math
import re
from dataclasses import replace

import pytest

from lsp.pocket.world import PocketWorld
from lsp.report import curves
from lsp.report.record import read_record
from lsp.run.folder import update_run
from lsp.tracking.labels import COLOURS


def test_one_run_has_a_panel_a_title_and_both_roles_in_their_colours(run):
    record = read_record(run)
    panels = curves.panels(record)
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
    panels = curves.panels(read_record(run))
    assert [line.points for line in panels["My score, dev split"]] == [[(3, 0.75, 0.0)]]
    update_run(run, evaluation=None)
    assert list(curves.panels(read_record(run))) == ["Reward of each role"]


def test_what_was_predicted_is_dashed_beside_it_and_gaps_share_a_panel(run):
    labels = {"score": "my score", "nash_conv": "NashConv", "solver_gap": "Solver's gap", "x": "x"}
    update_run(run, evaluation={"name": "mine", "labels": labels})
    line = '{"step": 3, "eval/mine/score": 0.75, "eval/mine/predicted/score": 0.9,'
    line += ' "eval/mine/x": 1.0, "eval/mine/nash_conv": 0.5, "eval/mine/solver_gap": 0.125}\n'
    (run / "metrics.jsonl").write_text(line)
    record = read_record(run)
    panels = curves.panels(record)
    measured, predicted = panels["My score, dev split"]
    assert (measured.dashes, predicted.dashes) == ("-", "--")
    assert predicted.points == [(3, 0.9, 0.0)] and predicted.label == "predicted from the base"
    gaps = panels["Worth of the best response beyond one's own"]
    assert [(line.label, line.points) for line in gaps] == [
        ("NashConv", [(3, 0.5, 0.0)]), ("Solver's gap", [(3, 0.125, 0.0)])
    ]  # fmt: skip
    assert "X, dev split" not in panels
    alone = curves.evaluation_panels(record, alone=False)["My score, dev split"]
    assert [label.text for label in alone.values()] == ["my score"]  # beside other runs


def test_a_bold_line_is_smoothed_and_its_values_stand_faint_behind():
    from matplotlib.figure import Figure

    points = [(step, float(step % 2), 0.0) for step in range(1, 41)]
    axis = Figure().subplots()
    words = curves.draw_lines(axis, "R", [curves.Line("R", "#000000", "-", points)])
    faint, bold = axis.get_lines()
    assert list(faint.get_ydata()) == [value for _, value, _ in points]
    assert faint.get_alpha() < 0.5 and bold.get_alpha() is None
    # A tenth of 40 values: means over the last four, fewer at the beginning.
    assert list(bold.get_ydata())[:6] == [1.0, 0.5, pytest.approx(2 / 3), 0.5, 0.5, 0.5]
    assert words == "R over steps 1 to 40: R from 1 to 0.5"
    axis = Figure().subplots()
    curves.draw_lines(axis, "R", [curves.Line("R", "#000000", "-", points[:19])])
    (alone,) = axis.get_lines()  # too few to be smoothed
    assert list(alone.get_ydata()) == [value for _, value, _ in points[:19]]


def test_a_chart_has_its_words_beside_it(run):
    """They are of the page, so that they are read at any width."""
    charts = {chart.title: chart for chart in curves.curve_charts(read_record(run))}
    reward = charts["Reward of each role"]
    assert [(key.label, key.colour, key.dashes) for key in reward.keys] == [
        ("Solver's reward", COLOURS["solver"], "none"),
        ("Challenger's reward", COLOURS["challenger"], "6 3"),
    ]
    assert "Solver" not in reward.svg and charts["External reward R"].keys == ()


def test_a_river_has_its_kinds_with_their_shares_beside_it():
    queries = {step: [("copy a", True), ("sort ab", step > 1)] for step in (1, 2)}
    by_family, by_length = curves.river_charts(queries, PocketWorld())
    assert [(key.label, key.numbers) for key in by_family.keys] == [
        ("illegal", "50% → 25%"), ("sort", "0% → 25%"), ("copy", "50% → 50%")
    ]  # fmt: skip
    assert by_family.ends == ("step 1", "step 2") and by_length.title.endswith("by length")
    assert 'preserveAspectRatio="none"' in by_family.svg and "<text" not in by_family.svg


def test_the_picture_of_a_run_shows_the_panels_of_its_report(run, monkeypatch):
    drawn = []
    draw_panel = curves.draw_panel
    monkeypatch.setattr(curves, "draw_panel", lambda *a: drawn.append(a[1]) or draw_panel(*a))
    record = read_record(run)
    curves.save_curves(record, run / "again.png")
    assert drawn == list(curves.panels(record))
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
