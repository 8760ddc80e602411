"""Texts in markdown, HTML and LaTeX tables: what a label has comes out as it was written."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from sage_ray.analysis.tables import Provenance, TextTable, latex_of, markdown_of
from sage_ray.markdown_texts import markdown_cell, markdown_text
from sage_ray.reports.html_page import inline
from sage_ray.reports.markdown_page import markdown
from sage_ray.reports.page_parts import Chapter, Grid, Page, Paragraph

LABELS = [
    "a | b || c",
    "*all* of **it",
    "star * alone, and 3*4*5",
    "_all_ of snake_case _and __more__",
    "<b>bold</b> <script>x</script> a<b",
    "one ` backtick",
    "[link](http://x) ![picture](y) [a][b]",
    "&amp; &lt; R&D",
    "~~struck~~ $x$ 5 % #1",
    "back\\slash \\* \\| \\",
]


class Words(HTMLParser):
    """The text of a page's cells and paragraphs, and which elements stand in them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "p", "h1"):
            self._open = True
            self.cells.append("")
        elif self._open:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "p", "h1")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


def shown(text: str) -> Words:
    words = Words()
    words.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    return words


@pytest.mark.parametrize("text", LABELS)
def test_what_is_no_markup_is_shown_as_it_is_written(text: str) -> None:
    alone = shown(markdown_text(text))
    assert (alone.cells, alone.inside) == ([text], [])
    table = shown(f"| a | b |\n|---|---|\n| {markdown_cell(text)} | 1 |\n")
    assert (table.cells, table.inside) == ([text, "1"], [])


@pytest.mark.parametrize("text", LABELS)
def test_tables_of_the_analysis_and_of_reports_show_labels_as_written(text: str) -> None:
    table = TextTable(text, ["arm", "Dice"], [[text, "0.5"]], [text])
    found = shown(markdown_of([table], Provenance("x")))
    assert found.cells[:3] == [text, text, "0.5"] and set(found.inside) <= {"code", "br"}, "of its foot"
    parts = [Grid(["arm", "Dice"], [[text, "0.5"]]), Paragraph(text)]
    page = Page(text, text, [Chapter("a", "A", parts)], foot="foot")
    found = shown(markdown(page))
    assert found.cells.count(text) == 4 and not found.inside
    assert unescape(re.sub(r"</?(a|strong|code)\b[^>]*>", "", str(inline(text)))) == text


def test_code_and_bold_stay() -> None:
    assert markdown_text("**Best**: `a|b*c` of **x_y**") == "**Best**: `a|b*c` of **x_y**"
    assert markdown_cell("`a|b`\n**c**") == "`a\\|b` **c**"


def test_a_line_break_is_a_blank_in_a_cell() -> None:
    assert markdown_cell("two\nlines\r\nand more") == "two lines and more"


@pytest.mark.parametrize("text", LABELS)
def test_latex_loses_no_character(text: str) -> None:
    body = latex_of([TextTable("t", ["arm", "Dice"], [[text, "0.5"]])], Provenance("x"))
    (row,) = (line for line in body.splitlines() if line.endswith(r"& 0.5 \\"))
    names = {
        "textbackslash": "\\",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textasciigrave": "`",
        "textbar": "|",
    }
    back = re.sub(r"\\(text\w+)\{\}", lambda found: f"\0{ord(names[found[1]])}\0", row.removesuffix(r" & 0.5 \\"))
    back = re.sub(r"\\([&%$#_{}])", r"\1", back.replace("$<$", "<").replace("$>$", ">")).replace("{[}", "[")
    assert re.sub(r"\0(\d+)\0", lambda found: chr(int(found[1])), back) == text
