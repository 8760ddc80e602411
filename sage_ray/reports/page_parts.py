"""A page as plain parts, which `html_page` and `markdown_page` write each in its own way, so that both say the same.

Texts may hold `code` in backticks and **bold** words; everything else is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sage_ray.statistics.verdict_sentences import Said


@dataclass(frozen=True)
class Paragraph:
    """Sentences.

    Attributes:
        text: of them.
        style: "", "note" or "caution".
        of_figure: name of the figure that they are about: a page on which it is not drawn leaves them out.
    """

    text: str
    style: str = ""
    of_figure: str = ""


@dataclass(frozen=True)
class Bullets:
    """Short sentences, one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        head: of its columns.
        rows: texts.
        texts: places of the columns that hold words; all others hold numbers.
        caption: a line above it.
        trials: number of the trial that each row is about, for the highlight; () if none.
        sortable: whether a click on a head sorts it.
        marked: places of the rows that stand out.
        folded: whether it is hidden behind its caption until it is opened; a page on paper has it open.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: frozenset[int] = frozenset({0})
    caption: str = ""
    trials: Sequence[int] = ()
    sortable: bool = False
    marked: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Verdicts:
    """What was found, one card for each."""

    said: Sequence[Said]


@dataclass(frozen=True)
class Code:
    """Commands or a file; `folded` hides it behind its title until it is opened."""

    text: str
    title: str = ""
    folded: bool = False
    language: str = ""


@dataclass(frozen=True)
class DrawnFigure:
    """A figure: its SVG, what must be known to read it, and what it shows (`finding`, "" if that is for the reader)."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    finding: str = ""


Part = Paragraph | Bullets | Grid | Verdicts | Code


@dataclass(frozen=True)
class Chapter:
    """One heading of a page with its parts, and the names of the figures that belong there."""

    name: str
    title: str
    parts: Sequence[Part]
    figures: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of it.
        lead: what it is about, one line below the title.
        chapters: in reading order; the first one is the answer.
        facts: short facts of the first screen, by name.
        trials: what a pointer over a trial of a figure is told, by number.
        foot: the last line.
    """

    title: str
    lead: str
    chapters: Sequence[Chapter]
    facts: Mapping[str, str] = field(default_factory=dict)
    trials: Mapping[int, str] = field(default_factory=dict)
    foot: str = ""
