"""The sizes of the winner's particles beside the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from sage_ray.analysis.figure_style import ORANGE, paper_axes, paper_figure
from sage_ray.apply.size_distribution import SizeReport, drawable
from sage_ray.figures.shown_model import with_segmenter
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.statistics.particle_sizes import FEWEST_FOR_FIT, LEVEL, median_ratio
from sage_ray.statistics.verdict_sentences import FEW_IMAGES, MINUS, counted, in_words, share, upper_first

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
    told = size_finding(found, true)
    return finished(records, "particles", "Sizes of the particles", caption, alt, figure, finding=told)


def size_finding(found: SizeReport, true: SizeReport) -> str:
    """How far the sizes that were found lie from the marked ones, in words; of images in one order, with particles."""
    ratio = median_ratio(*([(sample.sizes, sample.weights) for sample in side.by_image] for side in (found, true)))
    unit = _UNITS[true.unit.name]
    medians = [report.pooled.statistics.values["d50"].value for report in (found, true)]
    images = sum(
        len(one.sizes) + len(other.sizes) > 0 for one, other in zip(found.by_image, true.by_image, strict=True)
    )
    if ratio.low is not None and ratio.low > 1:
        verdict = "Particles come out larger than they are marked."
    elif ratio.high is not None and ratio.high < 1:
        verdict = "Particles come out smaller than they are marked."
    else:
        verdict = "It is open whether particles come out larger or smaller than they are marked."
    text = (
        f"**{verdict}** Their median diameter is {medians[0]:.3g} {unit} as found and {medians[1]:.3g} {unit} as marked"
    )
    text += f": {_percent(ratio.value)}"
    if ratio.low is not None and ratio.high is not None:
        text += f", {share(LEVEL)} interval {_percent(ratio.low)} to {_percent(ratio.high)} over {images} images."
    else:
        why = "one image" if images < 2 else f"fewer than {FEWEST_FOR_FIT} particles"
        text += f"; no interval, as {'there is' if images < 2 else 'there are'} {why}."
    text += f" At no size are the shares of smaller particles more than {_gap(found, true):.2f} apart, of at most 1."
    if 1 < images < FEW_IMAGES:
        text += f" {upper_first(in_words(images))} images are few: one odd one among them can carry the result."
    return text + " These images chose the epoch too, so that they flatter the model."


def _percent(ratio: float) -> str:
    """A ratio as the percentage by which it is above or below 1."""
    return f"{100 * (ratio - 1):+.1f} %".replace("-", MINUS)


def _gap(one: SizeReport, other: SizeReport) -> float:
    """Largest vertical distance between the two weighted distribution functions, 0 to 1."""
    at = np.union1d(one.pooled.sizes, other.pooled.sizes)
    shares = []
    for pooled in (one.pooled, other.pooled):
        order = np.argsort(pooled.sizes)
        sums = np.concatenate([[0.0], np.cumsum(pooled.weights[order])])
        shares.append(sums[np.searchsorted(pooled.sizes[order], at, side="right")] / sums[-1])
    return float(np.abs(shares[0] - shares[1]).max())
