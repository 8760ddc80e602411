"""A page as markdown: the same words and tables as the HTML, figures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from sage_ray.analysis.tables import markdown_cell
from sage_ray.reports.page_parts import Bullets, Chapter, Code, DrawnFigure, Grid, Page, Paragraph, Part, Verdicts

_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")


def markdown(page: Page, drawn: Mapping[str, DrawnFigure] | None = None, folder: str = "") -> str:
    """The page as markdown.

    Args:
        page: what it says.
        drawn: its figures by name; None for the words alone.
        folder: of the figures' files, relative to the page.
    """
    lines = [f"# {page.title}", "", page.lead, ""]
    if page.facts:
        lines += [f"{'. '.join(f'{name}: {fact}' for name, fact in page.facts.items())}.", ""]
    for chapter in page.chapters:
        lines += [f"## {chapter.title}", ""]
        for part in chapter.parts:
            lines += [*_part(part), ""]
        lines += _figures(chapter, drawn or {}, folder)
    return "\n".join(_harmless([*lines, "---", "", page.foot, ""]))


def _harmless(lines: Sequence[str]) -> Iterator[str]:
    """The lines with tags and entities that names and labels have in them as text; code shows what it has as it is."""
    fenced = False
    for line in "\n".join(lines).split("\n"):
        fence = line.startswith("```")
        fenced ^= fence
        pieces = line.split("`")
        if not (fence or fenced):
            pieces[::2] = [_TAG.sub("&lt;", _ENTITY.sub("&amp;", piece)) for piece in pieces[::2]]
        yield "`".join(pieces)


def _figures(chapter: Chapter, drawn: Mapping[str, DrawnFigure], folder: str) -> list[str]:
    lines: list[str] = []
    for figure in (drawn[name] for name in chapter.figures if name in drawn):
        alt = figure.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
        lines += [figure.finding, ""] if figure.finding else []
        lines += [f"![{alt}]({folder}/{figure.name}.svg)", "", f"*{figure.title}.* {figure.caption}", ""]
    return lines


def _part(part: Part) -> list[str]:
    if isinstance(part, Paragraph):
        return [f"**Caution.** {part.text}" if part.style == "caution" else part.text]
    if isinstance(part, Bullets):
        return [f"- {item}" for item in part.items]
    if isinstance(part, Code):
        title = [f"{part.title}:", ""] if part.title else []
        return [*title, f"```{part.language}", part.text.rstrip(), "```"]
    if isinstance(part, Verdicts):
        lines: list[str] = []
        for said in part.said:
            numbers = f" {said.numbers}." if said.numbers else ""
            lines.append(f"- **{said.headline}**{numbers} {' '.join([*said.cautions, said.plain])}".rstrip())
        return lines
    return _grid(part)


def _grid(grid: Grid) -> list[str]:
    rule = [":---" if place in grid.texts else "---:" for place in range(len(grid.head))]
    rows: list[Sequence[str]] = [grid.head, rule, *grid.rows]
    caption = [grid.caption, ""] if grid.caption else []
    return [*caption, *(f"| {' | '.join(map(markdown_cell, row))} |" for row in rows)]
