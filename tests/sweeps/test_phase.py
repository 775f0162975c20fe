"""The phase diagram: regions and counts by hand, the prediction, and a small real one."""

import pytest

from sweeps.phase import (
    CORNER,
    EXPLORES,
    LEAVES,
    RESTS,
    Cell,
    PhaseSettings,
    main,
    outcome_text,
    predict,
    region,
)


def cell(**changes):
    values = {"beta": 0.1, "weight": 0.0, "alpha": 0.3, "seed": 0, "predicted": LEAVES,
              "predicted_legal": 0.02, "region": LEAVES, "legal": 0.2, "coverage": 0.1,
              "challenger_kl": 1.0, "alarms": "… reward hacking"}  # fmt: skip
    return Cell(**{**values, **changes})


@pytest.mark.parametrize(
    ("legal", "coverage", "kl", "name"),
    [
        (0.49, 0.6, 1.0, LEAVES),
        (0.5, 0.34, 1.0, CORNER),
        (0.9, 0.35, 0.04, RESTS),
        (0.9, 0.35, 0.05, EXPLORES),
    ],
)
def test_regions_by_hand(legal, coverage, kl, name):
    played = {"valid_query_frac": legal, "coverage": coverage, "challenger_kl": kl}
    assert region(played) == name


def test_predictions_are_counted_and_those_that_failed_are_listed():
    cells = [
        cell(),
        cell(weight=0.3, predicted=CORNER, region=EXPLORES, legal=0.98, alarms=""),
        cell(beta=0.2, region=CORNER, legal=0.7, alarms="…", legal_by_own_solver=0.625),
    ]
    text = outcome_text(cells)
    assert "predicted right in 2 of 3 cells (67%); the very region in 1." in text
    assert "| 0.1 | 0.3 | 0.3 | one corner | 0.02 | explores | 0.98 | 0.10 |  |" in text
    assert (
        "| 0.2 | 0 | 0.3 | leaves the language | 0.02 | one corner | 0.70 | 0.10 | 0.62 |" in text
    )
    # The corner's own alarm was not raised; where a Challenger explores none should be.
    assert "| leaves the language | reward hacking | 1 | 1 |" in text
    assert "| one corner | largest_kind_frac | 1 | 0 |" in text
    assert "| explores | none | 1 | 1 |" in text


def test_the_prediction_of_the_shipped_base():
    """beta_Ch .1: -V alone leaves the language, w = .3 keeps to its longest queries; .5 holds."""
    settings = PhaseSettings(betas=(0.1, 0.5), weights=(0.0, 0.3))
    found = {(p.beta, p.weight): p for p in predict(settings)}
    assert found[0.1, 0.0].region == LEAVES and found[0.1, 0.3].region == CORNER
    assert found[0.1, 0.3].argument_length > 7.9
    assert found[0.5, 0.0].region == EXPLORES and found[0.5, 0.3].region == RESTS
    assert found[0.1, 0.0].valid_query_frac == pytest.approx(0.02, abs=0.005)


def test_bad_settings():
    with pytest.raises(SystemExit, match="speed=1: no such setting"):
        main(["speed=1"])


@pytest.mark.slow
def test_a_small_diagram_is_predicted_first_then_played(tmp_path, capfd):
    main(["betas=[0.1]", "weights=[0.0,0.3]", "alphas=[0.3]", "steps=1", f"folder={tmp_path}"])
    out, err = capfd.readouterr()
    assert err.count("run.py") == 2 and "of 2 cells" in out
    assert (tmp_path / "predicted.csv").read_text().count("\n") == 3
    assert (tmp_path / "phase.csv").read_text().count("\n") == 3
    assert (tmp_path / "phase.png").read_bytes().startswith(b"\x89PNG")
