"""docs/settings.md is what docs/settings.py makes of the classes of settings."""

import importlib.util
from pathlib import Path

import pytest

from lsp.settings.compose import compose
from lsp.settings.schema import flat

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.settings_page()


def test_the_page_is_current(page):
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page, "make docs"


def test_every_setting_of_a_run_has_a_line_of_its_own(page):
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    missing = [
        key
        for key in flat(compose([]))
        if "_target_" not in key and key not in lines and f"## {key}\n" not in page
    ]
    assert missing == []
    assert lines["method.beta"].startswith("| `method.beta` | number ≥ 0 ≤ 1,000,000 | `0.1` | KL")
    assert not [line for line in lines.values() if line.endswith("| None |")]
