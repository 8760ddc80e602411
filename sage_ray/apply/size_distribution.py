"""The size distribution of the particles of some images: pooled and by image, as numbers, JSON and CSV.

Sizes are equivalent circular diameters, and every particle counts once (a distribution by number). Particles that the
frame cuts are left out, and the others weighted for it: `statistics.particle_sizes` has all formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.fields_of_view import CommonUnit, FieldOfView, common_unit
from sage_ray.files import write_json, write_text
from sage_ray.statistics.clusters import counted
from sage_ray.statistics.particle_sizes import (
    FEWEST_FOR_FIT,
    LEVEL,
    REPLICATES,
    SizeStatistics,
    border_weights,
    fitted_band,
    size_statistics,
    smoothed_density,
)

ALL_IMAGES = "all images"
"""Name of the pooled sample."""
IMAGE_REPLICATES = 200
"""Bootstrap samples for one image of several: enough for a standard deviation."""
HEAVY = 5.0
"""Weight of a particle from which on a line says that the largest particles fill much of their image."""
CURVE_POINTS = 200
# Names of values that have the unit of a size.
_LENGTHS = ("mean", "sd", "d10", "d50", "d90", "geometric_mean")
_VALUES = (*_LENGTHS[:2], "relative_sd", *_LENGTHS[2:], "geometric_sd", "mu", "sigma")


@dataclass(frozen=True)
class SizeSample:
    """The whole particles of an image, or of all images.

    Attributes:
        name: of the image, or `ALL_IMAGES`.
        sizes: (n,) equivalent diameters.
        weights: (n,) for the border.
        cut: particles left out because the frame cuts them.
        area: of what was looked at, in square units; None where an image has no scale.
        statistics: what they say.
    """

    name: str
    sizes: np.ndarray
    weights: np.ndarray
    cut: int
    area: float | None
    statistics: SizeStatistics

    @property
    def density(self) -> float | None:
        """Particles per square unit, corrected for the border."""
        return float(self.weights.sum()) / self.area if self.area else None


@dataclass(frozen=True)
class SizeReport:
    """Sizes in one unit: of all images together, and of each image in the order given."""

    unit: CommonUnit
    pooled: SizeSample
    by_image: tuple[SizeSample, ...]

    @property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges (K + 1,) and weighted probability densities (K,) of the pooled sizes; empty without two sizes."""
        sizes = self.pooled.sizes
        if not drawable(self.pooled):
            return np.zeros(0), np.zeros(0)
        wished = len(np.histogram_bin_edges(sizes, "fd")) - 1
        edges = np.linspace(sizes.min(), sizes.max(), min(max(wished, 8), 60) + 1)
        return edges, np.histogram(sizes, edges, weights=self.pooled.weights, density=True)[0]

    @property
    def grid(self) -> np.ndarray:
        """Sizes (CURVE_POINTS,) at which curves are given; empty without two sizes."""
        if not drawable(self.pooled):
            return np.zeros(0)
        low, high = self.pooled.sizes.min(), self.pooled.sizes.max()
        return np.linspace(max(low - 0.15 * (high - low), low / 3), high + 0.15 * (high - low), CURVE_POINTS)

    def lines(self) -> list[str]:
        """What a reader has to know of these sizes, one sentence or more per line."""
        pooled = self.pooled
        lines = [f"sizes are in pixels: {self.unit.why_pixels}"] if self.unit.why_pixels else []
        number = pooled.statistics.number
        if number < FEWEST_FOR_FIT:
            few = f"{counted(number, 'particle')} that the frame does not cut"
            lines.append(f"{few}: too few for a lognormal fit, which takes {FEWEST_FOR_FIT}")
        elif not pooled.statistics.fitted:
            lines.append("all particles have the same size: there is no distribution to fit")
        heaviest = float(pooled.weights.max(initial=1))
        if heaviest >= HEAVY:
            lines.append(
                f"the largest particles fill much of their image, so that one of them stands for {heaviest:.1f}; "
                "an image of a larger field would say more"
            )
        return lines


def drawable(sample: SizeSample) -> bool:
    """Whether a sample has two different sizes."""
    return bool(len(sample.sizes) > 1 and np.ptp(sample.sizes) > 1e-9 * sample.sizes.max())


def size_report(particles: pd.DataFrame, fields: Sequence[FieldOfView]) -> SizeReport:
    """The size distribution of particles.

    Args:
        particles: rows of particle tables with a column `image`; `touches_border`, bounding boxes and equivalent
            diameters are used, in nm if each image with particles has a scale.
        fields: one per image, in the order of the report; images without particles too.
    """
    unit = common_unit(particles, fields)
    parts = []
    for field in fields:
        mine = particles[particles["image"] == field.image] if len(particles) else particles
        cut = _is_cut(mine, field) if len(mine) else np.zeros(0, bool)
        whole = mine[~cut]
        sizes = whole[f"equivalent_diameter_{unit.name}"].to_numpy(float) if len(whole) else np.zeros(0)
        boxes = [whole[f"box_{side}_px"].to_numpy() if len(whole) else np.zeros(0) for side in ("height", "width")]
        weights = border_weights((field.rows, field.columns), boxes[0], boxes[1])
        high, wide = unit.pixel(field)
        known = unit.name == "px" or field.sides is not None
        parts.append((sizes, weights, int(cut.sum()), field.rows * field.columns * high * wide if known else None))
    by_image = tuple(
        SizeSample(field.image, *part, size_statistics(part[0], part[1], replicates=IMAGE_REPLICATES))
        for field, part in zip(fields, parts, strict=True)
    )
    return SizeReport(unit, _pooled(by_image), by_image)


def _is_cut(particles: pd.DataFrame, field: FieldOfView) -> np.ndarray:
    """Which particles have a pixel in the outermost rows and columns of what was looked at."""
    first_row, first_column = particles["box_row"] - field.first_row, particles["box_column"] - field.first_column
    last_row, last_column = first_row + particles["box_height_px"], first_column + particles["box_width_px"]
    cut = (first_row <= 0) | (first_column <= 0) | (last_row >= field.rows) | (last_column >= field.columns)
    return np.asarray(cut | particles["touches_border"].astype(bool))


def _pooled(by_image: Sequence[SizeSample]) -> SizeSample:
    sizes = np.concatenate([np.zeros(0), *(sample.sizes for sample in by_image)])
    weights = np.concatenate([np.zeros(0), *(sample.weights for sample in by_image)])
    images = np.repeat(np.arange(len(by_image)), [len(sample.sizes) for sample in by_image])
    areas = [sample.area for sample in by_image]
    area = sum(each for each in areas if each is not None) if None not in areas else None
    cut = sum(sample.cut for sample in by_image)
    return SizeSample(ALL_IMAGES, sizes, weights, cut, area, size_statistics(sizes, weights, images))


def pooled_sizes(report: SizeReport) -> dict[str, Any]:
    """The sizes of all images together in short, as `Prediction.sizes` and its JSON have them."""
    return {"unit": report.unit.name, **_sample(report.pooled, report.unit.name), "notes": report.lines()}


def write_sizes(report: SizeReport, folder: Path) -> list[Path]:
    """Write sizes.json and sizes.csv (a row per image, and the last one for all together), and return their paths."""
    written = [folder / "sizes.json", folder / "sizes.csv"]
    write_json(written[0], _described(report))
    rows = [_row(sample, report.unit.name) for sample in (*report.by_image, report.pooled)]
    write_text(written[1], pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    return written


def _described(report: SizeReport) -> dict[str, Any]:
    edges, density = report.histogram
    curves: dict[str, list[float]] = {}
    if len(report.grid):
        pooled = report.pooled
        curves = {
            "size": _numbers(report.grid),
            "kde": _numbers(smoothed_density(pooled.sizes, pooled.weights, report.grid)),
        }
        if pooled.statistics.fitted:
            names = ("lognormal", "lognormal_low", "lognormal_high")
            curves |= dict(zip(names, map(_numbers, fitted_band(pooled.statistics, report.grid)), strict=True))
    return {
        "format_version": 1,
        "quantity": "equivalent circular diameter, by number",
        "unit": report.unit.name,
        "why_pixels": report.unit.why_pixels,
        "border": "cut particles left out; weight H W / ((H - 1 - h)(W - 1 - w)) of a whole one with a box of h x w",
        "intervals": {"level": LEVEL, "replicates": REPLICATES, "replicates_of_one_image": IMAGE_REPLICATES, "seed": 0},
        "pooled": _sample(report.pooled, report.unit.name),
        "by_image": [_sample(sample, report.unit.name) for sample in report.by_image],
        "histogram": {"edges": _numbers(edges), "density": _numbers(density)},
        "curves": curves,
        "notes": report.lines(),
    }


def _sample(sample: SizeSample, unit: str) -> dict[str, Any]:
    found = sample.statistics
    values = {
        name: {"value": each.value, "low": each.low, "high": each.high}
        for name in _VALUES
        if (each := found.values.get(name)) is not None
    }
    return {
        "image": sample.name,
        "particles": found.number,
        "particles_cut": sample.cut,
        "effective_number": found.effective_number,
        "images_with_particles": found.clusters,
        "intervals_over": found.over,
        f"particles_per_{unit}2": sample.density,
        "values": values,
        "largest_distance_to_lognormal": found.distance,
    }


def _row(sample: SizeSample, unit: str) -> dict[str, Any]:
    found = sample.statistics
    row: dict[str, Any] = {
        "image": sample.name,
        "particles": found.number,
        "particles_cut": sample.cut,
        f"particles_per_{unit}2": sample.density,
        "intervals_over": found.over,
    }
    for name in _VALUES:
        given = found.values.get(name)
        column = f"{name}_{unit}" if name in _LENGTHS else name
        row[column] = given.value if given else math.nan
        row[f"{column}_low"], row[f"{column}_high"] = (given.low, given.high) if given else (None, None)
    return row


def _numbers(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
