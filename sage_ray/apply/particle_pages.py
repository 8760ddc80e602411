"""The pages of `predict` for a paper: size distribution and spatial order, each as PDF, SVG and PNG.

They are 183 mm wide, two columns of a journal, with letters that stay readable in one; data are grey, fits and
predictions orange and blue, with different dashes, so that they can be told apart in grey print too.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sage_ray.apply.order_report import OrderReport
from sage_ray.apply.size_distribution import SizeReport, SizeSample, drawable
from sage_ray.files import replacing
from sage_ray.statistics.clusters import counted
from sage_ray.statistics.particle_sizes import Estimate, fitted_band, smoothed_density
from sage_ray.statistics.spatial_order import FOLDS, RANDOM_PSI

ENDINGS = (".pdf", ".svg", ".png")
WIDTH, HEIGHT = 7.2, 2.55
"""Inches."""
DPI = 300
MOST_NAMED = 16
"""Images that are drawn with their names; more are drawn in the order of their median."""
FIT, SMOOTH, DATA, EDGE = "#d55e00", "#0072b2", "0.82", "0.45"
_PSI_STYLES = {4: (SMOOTH, "--"), 6: (FIT, "-")}
# Editable text in PDF; the same bytes for the same numbers.
_STYLE: Any = {
    "pdf.fonttype": 42,
    "svg.hashsalt": "sage_ray",
    "font.size": 8,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
}
_UNITS = {"nm": "nm", "px": "pixels"}
_PER_UNIT = {"nm": "nm⁻¹", "px": "pixel⁻¹"}
# Plain letters: matplotlib's formulas would put three more fonts into each file, and take twice the time.
_D10, _D50, _D90 = "D₁₀", "D₅₀", "D₉₀"
_PSI_NAMES = {4: "ψ₄", 6: "ψ₆"}


def draw_sizes(report: SizeReport, folder: Path) -> list[Path]:
    """Write sizes.pdf, sizes.svg and sizes.png, and return their paths."""
    with matplotlib.rc_context(_STYLE):
        several = sum(len(sample.sizes) > 0 for sample in report.by_image) > 1
        figure, panels = _new_page(3 if several else 2)
        _draw_density(panels[0], report)
        _draw_cumulative(panels[1], report)
        if several:
            _draw_images(panels[2], [sample for sample in report.by_image if len(sample.sizes)])
            panels[2].set_xlabel(_diameter(report))
        found = report.pooled.statistics
        cut = f"{report.pooled.cut} cut by the frame are left out and the others weighted for it"
        over = f"; band and intervals: 95 %, over {found.over}" if found.over else ""
        used = f"{counted(found.number, 'whole particle')} of {counted(found.clusters, 'image')}"
        note = f"{used}; {cut}{over}."
        return _save(figure, [note, *map(_sentence, report.lines())], folder / "sizes")


def draw_order(report: OrderReport, folder: Path) -> list[Path]:
    """Write order.pdf, order.svg and order.png, and return their paths."""
    with matplotlib.rc_context(_STYLE):
        figure, panels = _new_page(3)
        _draw_nearest(panels[0], report)
        _draw_correlation(panels[1], report)
        _draw_psi(panels[2], report)
        images = sum(len(one.points) > 0 for one in report.by_image)
        band = "; band: 95 %, over images" if report.half_width is not None else ""
        note = f"{counted(report.points, 'particle')} of {counted(images, 'image')}, corrected for the frame{band}."
        return _save(figure, [note, *map(_sentence, report.lines())], folder / "order")


def _new_page(panels: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for place, each in enumerate(axes):
        each.grid(color="0.9", linewidth=0.5)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=7)
        each.set_title("abc"[place], loc="left", fontweight="bold", fontsize=9)
    return figure, axes


def _save(figure: Figure, notes: Sequence[str], target: Path) -> list[Path]:
    lines = [line for note in notes for line in textwrap.wrap(note, 150)]
    figure.supxlabel("\n".join(lines), fontsize=6.5, color="0.3", x=0.01, ha="left")
    figure.set_size_inches(WIDTH, HEIGHT + 0.11 * (len(lines) - 1))
    # The layout is found once: it takes longer than all three files.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    paths = [target.with_suffix(ending) for ending in ENDINGS]
    for path in paths:
        dated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[path.suffix]
        with replacing(path, durable=False) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata=dated)
    return paths


def _draw_density(axes: Any, report: SizeReport) -> None:
    axes.set(xlabel=_diameter(report), ylabel=f"probability density ({_PER_UNIT[report.unit.name]})")
    if not drawable(report.pooled):
        _say_few(axes)
        return
    pooled, grid = report.pooled, report.grid
    edges, density = report.histogram
    axes.stairs(density, edges, fill=True, facecolor=DATA, edgecolor=EDGE, linewidth=0.5, label="particles")
    smooth = smoothed_density(pooled.sizes, pooled.weights, grid)
    axes.plot(grid, smooth, "--", color=SMOOTH, linewidth=1, label="kernel density")
    highest = max(float(density.max()), float(smooth.max()))
    if pooled.statistics.fitted:
        fit, low, high = fitted_band(pooled.statistics, grid)
        median, spread = (pooled.statistics.values[name] for name in ("geometric_mean", "geometric_sd"))
        axes.fill_between(grid, low, high, color=FIT, alpha=0.22, linewidth=0)
        axes.plot(grid, fit, color=FIT, label="lognormal fit")
        text = f"median {_with_limits(median)}\nGSD {_with_limits(spread)}"
        axes.plot([], [], " ", label=text)
        highest = max(highest, float(fit.max()))
    axes.set_ylim(0, 1.75 * highest)
    axes.set_xlim(grid[0], grid[-1])
    _legend(axes, "upper right")


def _draw_cumulative(axes: Any, report: SizeReport) -> None:
    axes.set(xlabel=_diameter(report), ylabel="share of particles smaller", ylim=(0, 1.02))
    pooled = report.pooled
    if not drawable(pooled):
        _say_few(axes)
        return
    order = np.argsort(pooled.sizes)
    shares = np.cumsum(pooled.weights[order]) / pooled.weights.sum()
    axes.step(pooled.sizes[order], shares, where="post", color="0.25", linewidth=1, label="particles")
    if pooled.statistics.fitted:
        cumulative = np.cumsum(fitted_band(pooled.statistics, report.grid)[0]) * (report.grid[1] - report.grid[0])
        axes.plot(report.grid, np.minimum(cumulative, 1), color=FIT, linewidth=1, label="lognormal fit")
    for name, letters, share in (("d10", _D10, 0.1), ("d50", _D50, 0.5), ("d90", _D90, 0.9)):
        value = pooled.statistics.values[name]
        axes.plot([report.grid[0], value.value, value.value], [share, share, 0], ":", color=SMOOTH, linewidth=0.9)
        _name_point(axes, f"{letters} {value.value:.3g}", (value.value, share))
    axes.set_xlim(report.grid[0], report.grid[-1])


def _name_point(axes: Any, text: str, point: tuple[float, float]) -> None:
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    place: Any = {"xytext": (4, -3), "textcoords": "offset points", "va": "top"}
    axes.annotate(text, point, **place, fontsize=7, color=SMOOTH, bbox=ground)


def _draw_images(axes: Any, samples: Sequence[SizeSample]) -> None:
    named = len(samples) <= MOST_NAMED
    shown = samples if named else sorted(samples, key=lambda sample: sample.statistics.values["d50"].value)
    places = np.arange(len(shown))[::-1]
    values = [sample.statistics.values for sample in shown]
    low, middle, high = ([each[name].value for each in values] for name in ("d10", "d50", "d90"))
    axes.hlines(places, low, high, color=EDGE, linewidth=1, label=f"{_D10}–{_D90}")
    ranges = [(place, each["d50"]) for place, each in zip(places, values, strict=True) if each["d50"].low is not None]
    if ranges:
        limits = [[each.low for _, each in ranges], [each.high for _, each in ranges]]
        axes.hlines(
            [place for place, _ in ranges], *limits, color=SMOOTH, linewidth=3, alpha=0.5, label=f"95 % of {_D50}"
        )
    axes.plot(middle, places, "o", color=SMOOTH, markersize=3 if named else 2, label=_D50)
    axes.set_ylim(-0.7, 1.14 * len(shown) - 0.2)
    if named:
        labels = [f"{_shortened(sample.name)} ({sample.statistics.number})" for sample in shown]
        axes.set_yticks(places, labels, fontsize=6 if len(shown) > 8 else 6.5)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(shown)} images, by {_D50}")
    axes.grid(False, axis="y")
    _legend(axes, "upper right", columns=3, length=0.9)


def _draw_nearest(axes: Any, report: OrderReport) -> None:
    axes.set(
        xlabel=f"distance of nearest neighbour ({_UNITS[report.unit.name]})",
        ylabel=f"probability density ({_PER_UNIT[report.unit.name]})",
    )
    values, weights = report.known("nearest_neighbour")
    if len(values) < 2 or np.ptp(values) == 0:
        _say_few(axes)
        return
    bins = int(np.clip(np.sqrt(len(values)), 8, 40))
    axes.hist(
        values, bins, weights=weights, density=True, facecolor=DATA, edgecolor=EDGE, linewidth=0.5, label="particles"
    )  # fmt: skip
    area = sum(one.frame[0] * one.frame[1] for one in report.by_image)
    density = report.points / area
    distances = np.linspace(0, max(values.max() * 1.1, 1.3 / np.sqrt(density)), 200)
    random = 2 * np.pi * density * distances * np.exp(-np.pi * density * distances**2)
    axes.plot(distances, random, "--", color=SMOOTH, label="random points")
    ratio = report.pooled["nearest_neighbour_ratio"]
    axes.plot([], [], " ", label=f"mean / random: {_with_limits(ratio)}")
    axes.set_xlim(0, distances[-1])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.4)
    _legend(axes, "upper right")


def _draw_correlation(axes: Any, report: OrderReport) -> None:
    axes.set(xlabel=f"distance r ({_UNITS[report.unit.name]})", ylabel="pair correlation g(r)")
    known = np.isfinite(report.correlation)
    if not known.any() or report.points < 10:
        _say_few(axes)
        return
    middles = (report.edges[1:] + report.edges[:-1]) / 2
    if report.half_width is not None:
        low = np.maximum(report.correlation - report.half_width, 0)
        axes.fill_between(middles, low, report.correlation + report.half_width, color=FIT, alpha=0.22, linewidth=0)
    axes.plot(middles, report.correlation, color=FIT, linewidth=1, label="particles")
    axes.axhline(1, color=SMOOTH, linestyle="--", linewidth=1, label="random points")
    axes.set_xlim(0, report.edges[-1])
    axes.set_ylim(0, 1.25 * max(float(np.nanmax(report.correlation)), 1.5))
    _legend(axes, "upper right")


def _draw_psi(axes: Any, report: OrderReport) -> None:
    axes.set(xlabel="bond order of a particle", ylabel="probability density", xlim=(0, 1))
    bins = np.linspace(0, 1, 21 if len(report.known("psi6")[0]) > 200 else 11)
    known = False
    for fold in FOLDS:
        values, weights = report.known(f"psi{fold}")
        if len(values) < 2:
            continue
        known = True
        colour, dashes = _PSI_STYLES[fold]
        density = np.histogram(np.clip(values, 0, 1), bins, weights=weights, density=True)[0]
        mean = _with_limits(report.pooled[f"psi{fold}"])
        label = f"{_PSI_NAMES[fold]} mean {mean}\nrandom {RANDOM_PSI[fold]:.2f}"
        axes.stairs(density, bins, color=colour, linestyle=dashes, linewidth=1.2, label=label)
    if not known:
        _say_few(axes)
        return
    axes.set_ylim(0, axes.get_ylim()[1] * 1.55)
    _legend(axes, "upper center")


def _legend(axes: Any, place: str, columns: int = 1, length: float = 1.2) -> None:
    axes.legend(
        **{"loc": place, "ncols": columns, "handlelength": length, "columnspacing": 1.0, "fontsize": 6.2},
        **{"frameon": False, "borderaxespad": 0.1, "labelspacing": 0.35},
    )


def _say_few(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "too few particles", transform=axes.transAxes, ha="center", va="center", color="0.4")


def _diameter(report: SizeReport) -> str:
    return f"equivalent diameter ({_UNITS[report.unit.name]})"


def _with_limits(given: Estimate) -> str:
    """Such as "12.05 [11.99, 12.12]", with as many digits as the interval's width has a use for."""
    if given.low is None or given.high is None:
        return f"{given.value:.3g}"
    width = given.high - given.low
    if not 0 < width < abs(given.value) * 100:
        return f"{given.value:.3g} [{given.low:.3g}, {given.high:.3g}]"
    digits = min(max(1 - math.floor(math.log10(width)), 0), 3)
    return f"{given.value:.{digits}f} [{given.low:.{digits}f}, {given.high:.{digits}f}]"


def _shortened(name: str, most: int = 16) -> str:
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[-most // 2 + 2 :]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
