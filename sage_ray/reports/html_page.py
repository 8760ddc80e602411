"""A page as one HTML file that loads nothing from outside: style, figures and the little script are inside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sage_ray.reports.page_parts import Bullets, Code, DrawnFigure, Grid, Page, Paragraph, Verdicts

if TYPE_CHECKING:
    from jinja2 import Environment

KINDS = {Paragraph: "paragraph", Bullets: "bullets", Grid: "grid", Verdicts: "verdicts", Code: "code"}
MARKS = {"better": "▲", "worse": "▼", "same": "=", "open": "?", "proposed": "→", "result": "•"}
"""Sign of a verdict, which says the same as its colour."""
SAID = {
    "better": "better",
    "worse": "worse",
    "same": "no difference",
    "open": "open",
    "proposed": "proposed",
    "result": "result",
}


def html(page: Page, drawn: Mapping[str, DrawnFigure]) -> str:
    """The page as HTML.

    Args:
        page: what it says.
        drawn: its figures by name.
    """
    template = _environment().get_template("page.html.j2")
    return template.render(
        page=page,
        drawn=drawn,
        style=_text("page.css"),
        script=_text("page.js"),
        trials=json.dumps({str(number): text for number, text in page.trials.items()}).replace("<", "\\u003c"),
        marks=MARKS,
        said_tones=SAID,
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.lstrip_blocks = True
    made.filters["inline"] = inline
    made.filters["cell"] = cell
    made.filters["kind"] = lambda part: KINDS[type(part)]
    return made


def _text(name: str) -> str:
    return files("sage_ray.reports").joinpath("templates", name).read_text(encoding="utf-8")


def cell(text: str) -> Any:
    """A text of a table as HTML; between a score and its interval the line may break where a table is too wide."""
    from markupsafe import Markup

    return Markup(str(inline(text)).replace(" [", " <wbr>["))


def inline(text: str) -> Any:
    """A text with `code`, **bold** and https addresses as HTML; all else is escaped."""
    from markupsafe import Markup

    found = escape(str(text))
    found = re.sub(r"`([^`]+)`", r"<code>\1</code>", found)
    found = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", found)
    return Markup(re.sub(r"(?<![\w&quot;/])(https?://[^\s<,)]+)", r'<a href="\1">\1</a>', found))
