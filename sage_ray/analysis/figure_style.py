"""The look of all figures: widths, type, colours, and how a figure is saved as PNG, SVG and PDF with its provenance.

A paper takes figures of one column (88 mm) or of two (180 mm); letters are 7 points high there. The colours are those
of Okabe and Ito, which all common kinds of colour vision tell apart; as two of them can be alike in grey print, every
series also has a dash and a marker of its own (`style`).

Source: Okabe and Ito, Color Universal Design, 2008, for the colours.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import sage_ray
from sage_ray.analysis.tables import Provenance
from sage_ray.errors import UserError
from sage_ray.files import replacing

DPI = 160
PRINT_DPI = 300
"""Dots per inch of the PNG of a figure for a paper."""
MM = 1 / 25.4
"""A millimetre in inches."""
WIDTHS_MM = {1: 88.0, 2: 180.0}
"""Width of a figure by the number of columns that it takes on a page."""
SMALL, TINY = 6.5, 5.0
"""Points of text beside the axes, and of the line of provenance; all else has 7."""
FORMATS = ("pdf", "svg", "png")
_PICTURE_DPI = (150, 110, 80, 55)
COLOURS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#808080")
ORANGE, BLUE, SKY, AMBER = COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[5]
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MAX_MISSING = 3
"""Sentences on what is missing that a figure has room for; its table has all of them."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
# Text stays text in SVG and PDF, and the same figure gives the same bytes.
_FILES: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "sage_ray"}
_PAPER: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
}


class PaperFigure(Figure):
    """A figure that knows what it was made from: `facts` go into the metadata of its files.

    `told` has what an SVG of it says where the pointer rests on a mark, by the mark's name (`tell`).
    """

    facts: Mapping[str, str]
    told: dict[str, str]


def tell(mark: Any, text: str) -> None:
    """Have SVG files of a paper's figure say `text` where the pointer rests on `mark`, an artist in its axes."""
    figure = mark.get_figure(root=True)
    name = f"told-{len(figure.told) + 1}"
    mark.set_gid(name)
    figure.told[name] = text


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


@contextmanager
def paper_style() -> Iterator[None]:
    """While it is open, text and lines are made as figures for papers have them."""
    with matplotlib.rc_context(_PAPER):
        yield


def paper_figure(columns: int, height_mm: float) -> PaperFigure:
    """An empty figure for one or two columns of a page; draw into it inside `paper_style`.

    Raises:
        UserError: another number of columns.
    """
    if columns not in WIDTHS_MM:
        raise UserError("no such width", f"columns={columns}", "a figure takes 1 or 2 columns of a page")
    size = (WIDTHS_MM[columns] * MM, height_mm * MM)
    figure = PaperFigure(figsize=size, dpi=PRINT_DPI, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=1.4 * MM, h_pad=1.2 * MM)
    FigureCanvasAgg(figure)
    figure.facts, figure.told = {}, {}
    return figure


def tidy_axes(*many: Any) -> None:
    """Give axes a light grid, no box, and text of one size."""
    for axes in many:
        axes.grid(color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)


def paper_axes(*many: Any) -> None:
    """Give axes of a figure for a paper a light grid and no box."""
    for axes in many:
        axes.grid(color="0.9", linewidth=0.4)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def save_script_figure(
    figure: Figure, path: Path, source: Provenance, notes: Sequence[str] = (), partial: Sequence[str] = ()
) -> Path:
    """Write a figure of an analysis script as PNG, and as SVG and PDF beside it; returns the path of the PNG.

    What is missing, the notes and the provenance stand below the picture, and in the metadata of each file too.
    """
    more = f"PARTIAL: {len(partial) - MAX_MISSING} more, which the table of this figure names"
    missing = [f"PARTIAL: {text}" for text in partial[:MAX_MISSING]]
    notes = [*missing, *([more] if len(partial) > MAX_MISSING else []), *notes]
    wide = int(figure.get_figwidth() * 17)
    texts = [line for text in [*notes, *source.lines()] for line in textwrap.wrap(text.replace("`", ""), wide)]
    figure.supxlabel("\n".join(texts), fontsize=6.5, color="0.35", x=0.01, ha="left")
    description = "\n".join([*notes, *source.lines()])
    figure.savefig(path, metadata={"Description": description, "Software": "sage_ray"})
    settle(figure)
    for ending in ("svg", "pdf"):
        _write(figure, path.with_suffix(f".{ending}"), ending, {"title": path.stem, "description": description}, DPI)
    return path


def twins(path: Path) -> list[Path]:
    """The file of a figure and the other formats of it that lie beside it."""
    beside = [path.with_suffix(f".{ending}") for ending in ("svg", "pdf")] if path.suffix == ".png" else []
    return [path, *(other for other in beside if other.is_file())]


def save_figure(
    figure: Figure, stem: str | Path, formats: Sequence[str] = FORMATS, columns: int | None = None
) -> list[Path]:
    """Write a figure as STEM.pdf, STEM.svg and STEM.png and return their paths.

    The same figure gives the same bytes: no file holds a date. Letters stay letters in PDF and SVG.

    Args:
        figure: such as `Study.figure` returns; its provenance goes into the metadata.
        stem: path without an ending; its folder is made.
        formats: of pdf, svg and png.
        columns: make it as wide as one or two columns of a page; None: as it was drawn.

    Raises:
        UserError: another format or width, or a place that cannot be written.
    """
    unknown = [ending for ending in formats if ending not in FORMATS]
    if unknown or not formats:
        raise UserError("no such format", ", ".join(unknown) or "formats is empty", f"choose of {', '.join(FORMATS)}")
    if columns is not None:
        if columns not in WIDTHS_MM:
            raise UserError("no such width", f"columns={columns}", "a figure takes 1 or 2 columns of a page")
        width = WIDTHS_MM[columns] * MM
        if abs(figure.get_figwidth() - width) > 1e-6:
            figure.set_figwidth(width)
            figure.set_layout_engine("constrained")
    paths = [Path(f"{stem}.{ending}") for ending in formats]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        settle(figure)
        for path, ending in zip(paths, formats, strict=True):
            _write(figure, path, ending, getattr(figure, "facts", {}), PRINT_DPI)
    except OSError as error:
        raise UserError("cannot be written", paths[0], error.strerror or str(error)) from None
    return paths


def svg_text(figure: Figure, most: int = 300_000) -> str:
    """The figure as one SVG element for an HTML page, without the head of a file of its own.

    Args:
        figure: that is drawn.
        most: bytes that it may have; pictures in it get fewer dots per inch until it fits, all else is lines.
    """
    settle(figure)
    text = ""
    for dpi in _PICTURE_DPI:
        held = io.BytesIO()
        _write(figure, held, "svg", getattr(figure, "facts", {}), dpi)
        text = held.getvalue().decode("utf-8")
        if len(text) <= most:
            break
    return text[text.index("<svg") :]


def settle(figure: Figure) -> None:
    """Find the layout once: it takes longer than writing the files."""
    engine = figure.get_layout_engine()
    if engine is not None:
        # What a first pass makes narrower may get other ticks, and these another size.
        engine.execute(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _write(figure: Figure, target: Path | io.BytesIO, ending: str, facts: Mapping[str, str], dpi: int) -> None:
    with matplotlib.rc_context(_FILES):
        given: Any = {"format": ending, "metadata": _metadata(ending, facts), "dpi": dpi}
        if ending == "svg":
            drawn = io.BytesIO()
            figure.savefig(drawn, **given)
            text = _with_titles(drawn.getvalue().decode("utf-8"), getattr(figure, "told", {})).encode("utf-8")
            if isinstance(target, io.BytesIO):
                target.write(text)
                return
            with replacing(target, durable=False) as temporary:
                temporary.write_bytes(text)
            return
        with replacing(target, durable=False) as temporary:  # type: ignore[arg-type]
            figure.savefig(temporary, **given)


def _with_titles(svg: str, told: Mapping[str, str]) -> str:
    """The text of an SVG in which marks with a name in `told` have a title, which browsers show beside the pointer."""
    return re.sub(
        r'<g id="(told-\d+)">',
        lambda found: f"{found[0]}<title>{escape(told[found[1]])}</title>" if found[1] in told else found[0],
        svg,
    )


def _metadata(ending: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """What a file of this format can say of itself; a date would make each copy another file."""
    made = f"sage_ray {sage_ray.__version__}"
    title, description = facts.get("title", ""), facts.get("description", "")
    if ending == "svg":
        return {"Date": None, "Creator": made, "Title": title, "Description": description}
    if ending == "pdf":
        return {"CreationDate": None, "ModDate": None, "Creator": made, "Title": title, "Subject": description}
    return {"Software": made, "Title": title, "Description": description}
