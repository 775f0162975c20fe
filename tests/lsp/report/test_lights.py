"""Signs of collapse, in words."""

from lsp.report.lights import WATCHED, lights, lights_in_words
from lsp.report.page import render
from lsp.report.record import read_record
from lsp.settings.config import CollapseConfig
from lsp.tracking.labels import LABELS


def by_label(run):
    return {light.label: light for light in lights(read_record(run))}


def test_a_light_says_what_its_number_means_and_what_would_be_wrong(
    run, edit_settings, write_metrics
):
    (run / "alerts.jsonl").write_text(
        '{"step": 2, "text": "rollout/distinct_query_frac fell to 0.1 (limit 0.25)"}\n'
        '{"step": 3, "text": "the Solver\'s external reward rose by 1 …: reward hacking"}\n'
    )
    shown = by_label(run)
    assert (shown["distinct queries"].state, shown["distinct queries"].step) == ("alarm", 2)
    assert shown["reward hacking"].step == 3
    assert shown["queries played"].state == "too few steps"
    assert "at step 2" in render(read_record(run))
    write_metrics(run, "rollout/played_query_frac", [0.1] * 29)
    played = by_label(run)["queries played"]
    assert (played.state, played.says) == ("ok", "10% of the queries were played")
    assert played.beyond == "below 50% there is little left to learn from"
    edit_settings(run, method={"queries": "dataset"})
    assert by_label(run)["queries played"].state == "not measured"
    assert by_label(run)["queries played"].says == ""


def test_all_lights_in_a_sentence(run, write_metrics):
    few = lights_in_words(lights(read_record(run)))
    assert few == "Nothing can be said yet; 9 need more steps before they are judged."
    write_metrics(run, "rollout/played_query_frac", [0.1] * 29)
    one = lights_in_words(lights(read_record(run)))
    assert one == "No: 1 of 9 signs are within their limits; 8 are not measured in this run."
    (run / "alerts.jsonl").write_text('{"step": 2, "text": "entropy/challenger fell"}\n')
    rang = lights_in_words(lights(read_record(run)))
    assert rang.startswith("1 of 9 signs of collapse rang an alarm; ")


def test_every_light_has_a_number_words_and_a_limit():
    """Reward hacking alone is seen in another number, the quality."""
    assert {name for name in WATCHED if name not in LABELS} == {"reward hacking"}
    assert {watch.setting for watch in WATCHED.values()} <= {*CollapseConfig.__pydantic_fields__}
