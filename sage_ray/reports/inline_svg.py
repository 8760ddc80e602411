"""A matplotlib figure as SVG that can stand in a page beside others: no header, and no id twice."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIAL = re.compile(r"trial-(\d+)")
"""Name (gid) of what a figure draws for one trial."""

SCALE = 1.9
"""Pixels of the screen for a point of the figure: figures of a journal's width fill the page, small letters and all."""


def svg_of(figure: Figure, name: str, alt: str) -> str:
    """The figure as one `<svg>` element; the same figure gives the same text.

    Texts stay texts, so that they can be searched and read aloud, and what is drawn for a trial (its gid is "trial-12")
    has the class `trial` and `data-trial`, which the page's script marks.

    Args:
        figure: drawn.
        name: of it, before every id.
        alt: what it shows, for those who do not see it.
    """
    from html import escape

    from sage_ray.analysis.figure_style import svg_text

    text = svg_text(figure)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    seen: Counter[str] = Counter()
    text = re.sub(r'\bid="([^"]+)"', lambda found: _named(name, found[1], seen), text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'((?:xlink:)?href)="#([^"]+)"', rf'\1="#{name}-\2"', text)
    opening = text[: text.index(">") + 1]
    labelled = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    wide = re.search(r'viewBox="0 0 ([\d.]+) ', opening)
    size = f' style="max-width:{float(wide[1]) * SCALE:.0f}px"' if wide else ""
    labelled = labelled.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"{size}', 1)
    return labelled + text[len(opening) :].rstrip()


def standalone(svg: str) -> str:
    """The `<svg>` element as a file of its own, with a size, without which some viewers (MLflow's) show nothing."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if box is not None:
        width, height = (float(side) * SCALE for side in box.groups())
        svg = svg.replace("<svg", f'<svg width="{width:.0f}" height="{height:.0f}"', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def _named(figure: str, given: str, seen: Counter[str]) -> str:
    seen[given] += 1
    own = given if seen[given] == 1 else f"{given}-{seen[given]}"
    trial = TRIAL.search(given)
    marked = f' class="trial" data-trial="{trial[1]}"' if trial and trial[0] == given[: trial.end()] else ""
    return f'id="{figure}-{own}"{marked}'
