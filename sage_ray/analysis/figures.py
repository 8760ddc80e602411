"""Figures that print well in grey, with a footer that says what they were made from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sage_ray.analysis.tables import Provenance

DPI = 160
COLOURS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#808080")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MAX_MISSING = 3
"""Sentences on what is missing that a figure has room for; its table has all of them."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def style(place: int) -> dict[str, Any]:
    """Colour, dash and marker of the series at `place`.

    Neighbours differ in all three and in lightness, so that they can be told apart in grey print. There are 8 colours,
    7 dashes and 11 markers: as these numbers share no factor, a combination comes again only after 616 series.
    """
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, whose layout follows what is drawn."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy_axes(*many: Any) -> None:
    """Give axes a light grid, no box, and text of one size."""
    for axes in many:
        axes.grid(color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)


def save_figure(
    figure: Figure, path: Path, source: Provenance, notes: Sequence[str] = (), partial: Sequence[str] = ()
) -> Path:
    """Write a PNG with what is missing, the notes and the provenance below the picture, and in its metadata too."""
    more = f"PARTIAL: {len(partial) - MAX_MISSING} more, which the table of this figure names"
    missing = [f"PARTIAL: {text}" for text in partial[:MAX_MISSING]]
    notes = [*missing, *([more] if len(partial) > MAX_MISSING else []), *notes]
    wide = int(figure.get_figwidth() * 17)
    texts = [line for text in [*notes, *source.lines()] for line in textwrap.wrap(text.replace("`", ""), wide)]
    figure.supxlabel("\n".join(texts), fontsize=6.5, color="0.35", x=0.01, ha="left")
    figure.savefig(path, metadata={"Description": "\n".join([*notes, *source.lines()]), "Software": "sage_ray"})
    return path
