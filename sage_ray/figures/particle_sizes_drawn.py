"""The sizes of the winner's particles beside the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from sage_ray.analysis.figure_style import ORANGE, paper_axes, paper_figure
from sage_ray.apply.size_distribution import SizeReport, drawable
from sage_ray.figures.shown_model import with_segmenter
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.statistics.clusters import counted

_UNITS = {"nm": "nm", "px": "pixels"}
_LEAST_BINS, _MOST_BINS = 8, 40


def particles(records: StudyRecords, columns: int) -> StudyFigure:
    """Histogram and cumulative distribution of the diameters of predicted and of true particles.

    Raises:
        UserError: there is no winner, its images are gone, or too few particles are whole.
    """
    shown = with_segmenter(records.shown)
    rows = shown.measured
    true, found = shown.sizes(shown.data.masks[rows] > 0), shown.sizes(shown.predict(rows))
    if not drawable(true.pooled) or not drawable(found.pooled):
        raise records.without("too few whole particles in its validation images")
    figure = paper_figure(columns, 62 if columns == 2 else 104)
    left, right = figure.subplots(1, 2) if columns == 2 else figure.subplots(2, 1)
    both = np.concatenate([true.pooled.sizes, found.pooled.sizes])
    wished = len(np.histogram_bin_edges(both, "fd")) - 1
    edges = np.linspace(both.min(), both.max(), int(np.clip(wished, _LEAST_BINS, _MOST_BINS)) + 1)
    looks: list[tuple[str, SizeReport, dict[str, Any], dict[str, Any]]] = [
        ("truth", true, {"fill": True, "facecolor": "0.82", "edgecolor": "0.45"}, {"color": "0.35"}),
        ("prediction", found, {"edgecolor": ORANGE, "linewidth": 1.4, "linestyle": "--"},
         {"color": ORANGE, "linestyle": "--", "linewidth": 1.4}),
    ]  # fmt: skip
    for name, report, filled, line in looks:
        pooled = report.pooled
        density = np.histogram(pooled.sizes, edges, weights=pooled.weights, density=True)[0]
        left.stairs(density, edges, label=f"{name} ({pooled.statistics.number})", **filled)
        order = np.argsort(pooled.sizes)
        shares = np.cumsum(pooled.weights[order]) / pooled.weights.sum()
        middle = pooled.statistics.values["d50"].value
        right.step(pooled.sizes[order], shares, where="post", label=f"{name}: median {middle:.3g}", **line)
    unit = _UNITS[true.unit.name]
    left.set(xlabel=f"equivalent diameter ({unit})", ylabel=f"share per {unit.removesuffix('s')}")
    right.set(xlabel=f"equivalent diameter ({unit})", ylabel="share that is smaller", ylim=(0, 1.02))
    left.legend(frameon=False, loc="upper right")
    right.legend(frameon=False, loc="lower right")
    left.set_ylim(0, left.get_ylim()[1] * 1.15)
    paper_axes(left, right)
    some = f"{len(rows)} of {len(shown.rows)}" if len(rows) < len(shown.rows) else f"{len(rows)}"
    numbers = [report.pooled.statistics.number for report in (found, true)]
    caption = [
        f"{counted(numbers[0], 'whole particle')} found where {numbers[1]} are marked, in {some} validation images at "
        f"the size of training. {found.pooled.cut} found and {true.pooled.cut} marked ones that the frame cuts are "
        "left out; as large ones are cut more often, larger ones count for more.",
        f"Sizes are in pixels: {true.unit.why_pixels}." if true.unit.why_pixels else "",
        records.winner.why,
    ]
    middles = [report.pooled.statistics.values["d50"].value for report in (true, found)]
    alt = (
        f"Distribution of diameters of {counted(found.pooled.statistics.number, 'predicted particle')} (median "
        f"{middles[1]:.3g} {unit}) beside {true.pooled.statistics.number} true ones (median {middles[0]:.3g} {unit})."
    )
    return finished(records, "particles", "Sizes of the particles", caption, alt, figure)
