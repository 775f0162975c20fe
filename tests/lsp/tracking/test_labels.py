"""One table says how metrics are shown."""

from lsp.tracking.labels import COLOURS, LABELS, LEGAL_QUERIES, TRUE_QUALITY
from lsp.tracking.reader import read_metrics


def test_every_label_is_of_a_metric_that_a_run_measures(small_run):
    """But for role gradients, which this run is too short for, and what readers work out."""
    measured = {key for line in read_metrics(small_run[0]) for key in line}
    later = {"optim/grad_norm/solver", "optim/grad_norm/challenger", LEGAL_QUERIES, TRUE_QUALITY}
    assert set(LABELS) - later <= measured


def test_labels_are_told_apart_and_have_a_colour():
    assert len({label.text for label in LABELS.values()}) == len(LABELS)
    assert {label.role for label in LABELS.values()} == set(COLOURS)
