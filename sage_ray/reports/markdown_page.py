"""A page as markdown: the same words and tables as the HTML, figures as files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage_ray.markdown_texts import markdown_cell, markdown_text
from sage_ray.reports.page_parts import Bullets, Chapter, Code, DrawnFigure, Grid, Page, Paragraph, Part, Verdicts


def markdown(page: Page, drawn: Mapping[str, DrawnFigure] | None = None, folder: str = "") -> str:
    """The page as markdown.

    Args:
        page: what it says.
        drawn: its figures by name; None for the words alone.
        folder: of the figures' files, relative to the page.
    """
    lines = [f"# {markdown_text(page.title)}", "", markdown_text(page.lead), ""]
    if page.facts:
        facts = ". ".join(f"{name}: {fact}" for name, fact in page.facts.items())
        lines += [f"{markdown_text(facts)}.", ""]
    for chapter in page.chapters:
        lines += [f"## {markdown_text(chapter.title)}", ""]
        for part in chapter.parts:
            lines += [*_part(part), ""]
        lines += _figures(chapter, drawn or {}, folder)
    return "\n".join([*lines, "---", "", markdown_text(page.foot), ""])


def _figures(chapter: Chapter, drawn: Mapping[str, DrawnFigure], folder: str) -> list[str]:
    lines: list[str] = []
    for figure in (drawn[name] for name in chapter.figures if name in drawn):
        alt = figure.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
        lines += [markdown_text(figure.finding), ""] if figure.finding else []
        lines += [f"![{alt}]({folder}/{figure.name}.svg)", "", f"*{figure.title}.* {markdown_text(figure.caption)}", ""]
    return lines


def _part(part: Part) -> list[str]:
    if isinstance(part, Paragraph):
        text = markdown_text(part.text)
        return [f"**Caution.** {text}" if part.style == "caution" else text]
    if isinstance(part, Bullets):
        return [f"- {markdown_text(item)}" for item in part.items]
    if isinstance(part, Code):
        title = [f"{part.title}:", ""] if part.title else []
        return [*title, f"```{part.language}", part.text.rstrip(), "```"]
    if isinstance(part, Verdicts):
        lines: list[str] = []
        for said in part.said:
            numbers = f" {said.numbers}." if said.numbers else ""
            text = (
                f"- **{markdown_text(said.headline)}**{numbers} {markdown_text(' '.join([*said.cautions, said.plain]))}"
            )
            lines.append(text.rstrip())
        return lines
    return _grid(part)


def _grid(grid: Grid) -> list[str]:
    rule = [":---" if place in grid.texts else "---:" for place in range(len(grid.head))]
    rows: list[Sequence[str]] = [grid.head, rule, *grid.rows]
    caption = [markdown_text(grid.caption), ""] if grid.caption else []
    return [*caption, *(f"| {' | '.join(map(markdown_cell, row))} |" for row in rows)]
