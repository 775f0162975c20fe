"""docs/commands.md is what docs/commands.py makes of the table of commands."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("commands_page", DOCS / "commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == module.commands_page(), "make docs"
