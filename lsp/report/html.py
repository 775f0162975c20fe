"""A template with its script and style goes in, one self-contained HTML page comes out.

The policy in the page allows its one script and its one style sheet, by their hashes, and no
connection. What is put into the template is escaped, characters that cannot be seen are named
(filter ``visible``), terms are explained (filter ``terms``; ``glossary``), and data for the script
is JSON that ends no element.
"""

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from markupsafe import Markup

from lsp.report.glossary import Terms
from lsp.tools.text import page_json, visible

BASE_STYLE = Path(__file__).with_name("page.css")


def page(template: Path, script: Path, style: Path | None, data: Any, **values: Any) -> str:
    """``style``: what is added to the style of all pages; ``data``: what the script reads."""
    source = script.read_text(encoding="utf-8")
    sheet = "".join(path.read_text(encoding="utf-8") for path in (BASE_STYLE, style) if path)
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined
    )
    glossary = Terms()
    environment.filters["visible"] = lambda value: visible(str(value))
    # With the context, or jinja2 would mark the template's own texts before all others.
    environment.filters["terms"] = pass_context(lambda _, text: glossary.mark(text))
    environment.filters["number"] = lambda value, digits=3: (
        "—" if value is None else f"{value:.{digits}f}"
    )
    return environment.get_template(template.name).render(
        policy=f"default-src 'none'; script-src 'sha256-{_digest(source)}';"
        f" style-src 'sha256-{_digest(sheet)}'; base-uri 'none'; form-action 'none'",
        script=Markup(source),
        style=Markup(sheet),
        data=Markup(page_json(data)),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        glossary=glossary,
        Markup=Markup,
        **values,
    )


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def interval_places(low: float, center: float, high: float, reach: float) -> tuple[float, ...]:
    """Where an interval's ends and its middle lie in a picture 200 wide whose middle is zero and
    whose ends are ``reach`` away."""
    return tuple(round(100 + 100 * value / reach, 2) for value in (low, center, high))
