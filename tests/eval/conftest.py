"""Shared by the tests of the evaluation."""

import json

import pytest


@pytest.fixture
def data(tmp_path):
    """Twelve instructions of two sets, in the pocket world's language."""
    path = tmp_path / "instructions.json"
    words = [
        f"{family} {a}" for family in ("copy", "sort", "upper") for a in ("ab", "ca", "b", "cc")
    ]
    rows = [{"instruction": w, "dataset": ("koala", "vicuna")[i % 2]} for i, w in enumerate(words)]
    path.write_text(json.dumps(rows))
    return path
