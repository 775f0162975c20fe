"""The page of a sweep, as text and in a real browser."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import browser
import pytest

from lsp.report.page import REPORT
from sweeps.outcome import Ended, cells
from sweeps.page import chart, grids, shade, write_sweep
from sweeps.space import Parameter, Sweep, points, read_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\u202e"


def sweep_of(*names):
    return Sweep("mine", "m", "maximize", "grid", [Parameter(n, "categorical", {}) for n in names])


@pytest.fixture
def made(tmp_path):
    """(sweep, its runs), each point's value its place among them; the second failed, the third was
    never started. Reports are there of those that ran."""

    def make(sweep, drawn):
        found = []
        for i, point in enumerate(drawn):
            folder = tmp_path / "sweep" / f"point, {i}"
            folder.mkdir(parents=True)
            if i != 2:
                (folder / REPORT).write_text("<title>a report</title>")
            value = None if i in (1, 2) else i / 100
            status, reason = {1: ("failed", HOSTILE), 2: ("not started", "")}.get(
                i, ("finished", "")
            )
            found.append(Ended(point, folder, value, status, reason))
        return sweep, found

    return make


@pytest.fixture
def beta(made):
    sweep = read_sweep(SWEEPS / "beta.yaml")
    return made(sweep, points(sweep, None, 0))


@pytest.fixture
def weight(made):
    sweep = read_sweep(SWEEPS / "self_reward_weight.yaml")
    return made(sweep, points(sweep, None, 0))


def test_two_numbers_make_a_grid_for_each_combination_of_the_others(beta):
    sweep, runs = beta
    one, two = grids(sweep, cells(sweep, runs))
    assert (one.title, two.title) == ("method=lsp", "method=lsp_zero")
    assert (one.across, one.columns) == ("method.beta", ["0.03", "0.1", "0.3"])
    assert (one.down, [y for y, _ in one.lines]) == (
        "method.challenger_beta", ["0.03", "0.1", "0.3", "1"],
    )  # fmt: skip
    # W&B's order: method, beta, challenger_beta, seed, the last one fastest.
    assert one.lines[3][1][2].mean == pytest.approx(sum((33, 34, 35)) / 300)


def test_random_points_make_a_chart_a_setting_and_no_grid(made):
    sweep = sweep_of("lr", "beta")
    sweep, runs = made(sweep, [{"lr": 10.0**-i, "beta": i / 7} for i in range(8)])
    found = cells(sweep, runs)
    assert grids(sweep, found) == []
    drawn = chart(sweep, found, "lr")
    assert [text for _, text in drawn.columns] == [f"{10.0**-i:g}" for i in range(7, -1, -1)]
    assert len(drawn.points) == 6 and drawn.means == []


def test_one_setting_makes_points_and_means_with_intervals(weight):
    sweep, runs = weight
    drawn = chart(sweep, cells(sweep, runs), "method.self_reward_weight")
    assert [text for _, text in drawn.columns] == ["0", "0.25", "0.5", "1", "2"]
    assert len(drawn.points) == 13 and len(drawn.means) == 5
    alone, several = drawn.means[:2]
    assert alone.low is None and several.low > several.y > several.high  # pixels grow downwards
    assert (
        chart(sweep, cells(sweep, [run._replace(value=None) for run in runs]), sweep.settings[0])
        is None
    )


def test_shades_go_from_the_lowest_to_the_highest():
    assert [shade(x, 0.0, 1.0) for x in (0.0, 0.09, 0.5, 0.95, 1.0)] == [0, 0, 5, 9, 9]
    assert shade(0.3, 0.3, 0.3) == 5


@pytest.mark.parametrize("kind", ["beta", "weight"])
def test_each_point_leads_to_its_report_also_after_the_folder_was_moved(kind, request, tmp_path):
    sweep, runs = request.getfixturevalue(kind)
    write_sweep(sweep, runs, tmp_path / "sweep" / "outcome.html")
    moved = Path(shutil.move(tmp_path / "sweep", tmp_path / "elsewhere"))
    page = (moved / "outcome.html").read_text()
    links = {unquote(link) for link in re.findall(r'href="([^#"]+)"', page)}
    assert links == {f"point, {i}/{REPORT}" for i in range(len(runs)) if i != 2}
    assert all((moved / link).is_file() for link in links)


def test_failed_and_unfinished_runs_are_shown_with_the_reason_and_hostile_text_is_text(
    weight, tmp_path
):
    sweep, runs = weight
    page = write_sweep(sweep, runs, tmp_path / "x.html").read_text()
    assert "13 of 15 runs have eval/pocket/win_rate" in page
    (table,) = re.findall(r'<table class="left-out">.*?</table>', page, re.S)
    assert re.findall(r'<td class="wrong">(.*?)</td>', table) == ["failed", "not started"]
    assert "&lt;img src=x" in table and "⟦U+202E⟧" in table
    assert "<img" not in page and "\u202e" not in page and page.count("<script>") == 1


def test_values_and_names_are_text(made, tmp_path):
    sweep = Sweep(HOSTILE, HOSTILE, "maximize", "grid", [Parameter("run_name", "categorical", {})])
    sweep, runs = made(sweep, [{"run_name": value} for value in (HOSTILE, "b", "c", ["<i>"])])
    page = write_sweep(sweep, runs, tmp_path / "x.html").read_text()
    assert "<img" not in page and "<i>" not in page and "\u202e" not in page


@pytest.mark.parametrize("kind", ["beta", "weight"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(kind, width, request, visit, tmp_path):
    sweep, runs = request.getfixturevalue(kind)
    path = write_sweep(sweep, runs, tmp_path / "sweep" / "outcome.html")
    page = visit(path, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked") is None
    assert browser.poor_contrast(page) == []
    picture = page.locator(".grid, .chart").first.bounding_box()
    assert picture["y"] < 844
    metric = page.locator("#table th", has_text="win_rate")
    metric.locator("button").click()
    place = len(sweep.settings)
    shown = page.locator(f"#table tbody td:nth-child({place + 1})").all_inner_texts()
    numbers = [float(text.removesuffix(" ★")) for text in shown]
    assert numbers == sorted(numbers) and metric.get_attribute("aria-sort") == "ascending"
    metric.locator("button").click()
    assert page.locator(f"#table tbody td:nth-child({place + 1})").first.inner_text().endswith("★")
    assert page.locator(".grid td.best, #table tr.best").count() >= 1
