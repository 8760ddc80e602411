"""The table of particles: measured on bands of particle labels, so that a mask need never be whole in memory.

Area, centroid, equivalent diameter, Crofton perimeter and orientation are those of scikit-image's `regionprops`, to
which the tests hold them; the fitted ellipse too, but for the second moment of the pixels themselves, which are squares
and no points (a particle of one pixel has an ellipse with axes of 1.15 pixels, not 0). They are summed by hand for two
reasons. `regionprops` needs the whole mask and its labels, which for a field of 100,000 x 100,000 pixels are 50 GB. And
where a 4-connected particle meets itself at a corner, `perimeter_crofton` joins the two pieces of its edge and reports
less perimeter than it has.

Source: Legland, Kieu, Devaux, Image Anal. Stereol. 26, 2007, for the perimeter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sage_ray.errors import UserError
from sage_ray.imaging.hulls import HullPoints, bounding_boxes, convex_pixels, feret_diameters
from sage_ray.imaging.instances import InstanceStream
from sage_ray.imaging.particle_columns import NM_COLUMNS, PIXEL_COLUMNS, VALUE_COLUMNS

BAND_ROWS = 512
# Pixels that are measured at a time: each takes some 100 bytes meanwhile.
PART_PIXELS = 1 << 20
# Points of outlines that are gathered before only those on convex hulls are kept.
HULL_POINTS = 1 << 19

Scale = float | tuple[float, float] | None
"""Side of a pixel in nanometres, or its height and width; None: unknown."""

# A 2x2 window of one particle as a number: bit 0 upper left, 1 upper right, 2 lower left, 3 lower right. Two pixels
# that touch at a corner alone count as two pieces, as 4-connectivity has it: windows 6 and 9.
_BITS = np.array([[(code >> bit) & 1 for bit in range(4)] for code in range(16)])
_PIECES = {6: (2, 4), 9: (1, 8)}


def _by_window(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    for code, (one, other) in _PIECES.items():
        values[code] = values[one] + values[other]
    return values


_ALONG = _by_window(_BITS[:, 2] != _BITS[:, 3])
_DOWN = _by_window(_BITS[:, 1] != _BITS[:, 3])
_DIAGONAL = _by_window((_BITS[:, 0] != _BITS[:, 3]).astype(int) + (_BITS[:, 1] != _BITS[:, 2]))
_ONES = _BITS.sum(axis=1)
# Quarters of an Euler number: particles minus holes. Windows 6 and 9 have two corners.
_EULER = _by_window((_ONES == 1).astype(int) - (_ONES == 3))
_SUMS = (
    "area",
    "row",
    "column",
    "row_row",
    "column_column",
    "row_column",
    "border",
    "along",
    "down",
    "diagonal",
    "euler",
)


def particle_table(
    mask: np.ndarray, nm_per_pixel: Scale = None, min_object_pixels: int = 0, split: str = "none"
) -> pd.DataFrame:
    """One row per particle of a mask (H,W), non-zero is particle; `particle_columns` says what the columns mean.

    Args:
        mask: (H,W), any dtype.
        nm_per_pixel: side of a pixel in nanometres, or its (height, width).
        min_object_pixels: smaller particles are left out; labels stay without gaps.
        split: see `splitting.SPLITS`.

    Raises:
        UserError: `nm_per_pixel` is not a positive number, or no such way to split.
        ValueError: the mask is not two-dimensional.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has rows and columns, not shape {mask.shape}")
    stream = InstanceStream(mask.shape[1], split, min_object_pixels)
    measures = ParticleMeasures(mask.shape[1], resolved=stream.resolved)
    for row in range(0, mask.shape[0], BAND_ROWS):
        for (labels,) in stream.add(mask[row : row + BAND_ROWS]):
            measures.add(labels)
    for (labels,) in stream.finish():
        measures.add(labels)
    return measures.table(nm_per_pixel, min_object_pixels).frame


def pixel_sides(nm_per_pixel: Scale) -> tuple[float, float] | None:
    """(height, width) of a pixel in nanometres. Raises UserError if one of them is no positive number."""
    if nm_per_pixel is None:
        return None
    sides = nm_per_pixel if isinstance(nm_per_pixel, tuple) else (nm_per_pixel, nm_per_pixel)
    if not all(math.isfinite(side) and side > 0 for side in sides):
        raise UserError("no size of a pixel", f"nm_per_pixel={nm_per_pixel}", "give nanometres above 0, such as 1.5")
    return float(sides[0]), float(sides[1])


@dataclass(frozen=True)
class ParticleTable:
    """The particles of a mask: their table, and `numbers` (n + 1,): row number in it of each label, 0 if left out."""

    frame: pd.DataFrame
    numbers: np.ndarray


class ParticleMeasures:
    """Measures particles whose labels are added in bands from the top.

    Memory grows with the number of particles and with the size of a band, not with the height of the mask.

    Args:
        columns: of the mask.
        values: names, of `particle_columns.VALUE_COLUMNS`, of the values that `add` gets beside the labels.
        resolved: says which labels stand for the given ones by now (`InstanceStream.resolved`); None: each for itself.
    """

    def __init__(
        self, columns: int, values: Sequence[str] = (), resolved: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self.columns, self.rows = columns, 0
        self.values, self._resolved = tuple(values), resolved or (lambda labels: labels)
        self._sums = np.zeros((1, len(_SUMS) + len(self.values)))
        self._first = np.full(1, np.iinfo(np.int64).max)
        self._given = 1
        self._points = HullPoints.none()
        self._fresh: list[HullPoints] = []
        self._last = np.zeros((1, columns + 2), np.int64)

    def add(self, labels: np.ndarray, *values: np.ndarray) -> None:
        """Add the next rows of labels (n, columns), 0 the background, and the values of the same pixels."""
        step = max(PART_PIXELS // max(self.columns, 1), 1)
        for row in range(0, len(labels), step):
            self._add(labels[row : row + step], *(value[row : row + step] for value in values))

    def _add(self, labels: np.ndarray, *values: np.ndarray) -> None:
        self._grow(int(labels.max(initial=0)) + 1)
        # Where rows join what was apart above, the row above has to know before its edges are measured.
        labels, self._last = self._resolved(labels).astype(np.int64), self._resolved(self._last).astype(np.int64)
        rows, columns = np.nonzero(labels)
        held = labels[rows, columns]
        absolute = rows + self.rows
        weights: list[np.ndarray | None] = [None, absolute, columns, absolute**2, columns**2, absolute * columns]
        for place, weight in enumerate(weights):
            self._count(place, held, weight)
        for place, value in enumerate(values, len(_SUMS)):
            self._count(place, held, value[rows, columns])
        np.minimum.at(self._first, held, absolute * self.columns + columns)
        padded = np.pad(labels, ((0, 0), (1, 1)))
        self._border(padded[:, 1], padded[:, -2], *([padded[0]] if self.rows == 0 else []))
        self._measure_edges(np.concatenate([self._last, padded]))
        self._gather(HullPoints.of_labels(labels, self.rows))
        self._last = padded[-1:].copy()
        self.rows += len(labels)

    def table(self, nm_per_pixel: Scale = None, min_object_pixels: int = 0) -> ParticleTable:
        """One row per particle, in the order of first pixels, row by row; called once, after the last band.

        Args:
            nm_per_pixel: side of a pixel in nanometres, or its (height, width).
            min_object_pixels: smaller particles are left out.

        Raises:
            UserError: `nm_per_pixel` is not a positive number.
        """
        sides = pixel_sides(nm_per_pixel)
        self._border(self._last[0])
        self._measure_edges(np.concatenate([self._last, np.zeros_like(self._last)]))
        roots = self._resolved(np.arange(self._given))
        self._sums, self._first = self._sums[: self._given], self._first[: self._given]
        sums, first = np.zeros_like(self._sums), np.full_like(self._first, np.iinfo(np.int64).max)
        np.add.at(sums, roots, self._sums)
        np.minimum.at(first, roots, self._first)
        chosen = np.flatnonzero(sums[:, 0] >= max(min_object_pixels, 1))
        chosen = chosen[np.argsort(first[chosen])]
        numbers = np.zeros(len(roots), np.int64)
        numbers[chosen] = np.arange(1, len(chosen) + 1)
        numbers = numbers[roots]
        self._gather(HullPoints.none(), now=True)
        hull = self._points.renamed(numbers - 1).hull()
        names = (*_SUMS, *self.values)
        return ParticleTable(_frame(dict(zip(names, sums[chosen].T, strict=True)), hull, self.values, sides), numbers)

    def _grow(self, number: int) -> None:
        self._given = max(self._given, number)
        more = number - len(self._sums)
        if more > 0:
            more = max(more, len(self._sums) // 4)
            self._sums = np.concatenate([self._sums, np.zeros((more, self._sums.shape[1]))])
            self._first = np.concatenate([self._first, np.full(more, np.iinfo(np.int64).max)])

    def _count(self, place: int, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        # Labels of a band lie close together, so most of a long list is left alone.
        if len(labels):
            low = int(labels.min())
            counts = np.bincount(labels - low, weights)
            self._sums[low : low + len(counts), place] += counts

    def _border(self, *lines: np.ndarray) -> None:
        for line in lines:
            self._count(_SUMS.index("border"), line[line > 0])

    def _gather(self, points: HullPoints, *, now: bool = False) -> None:
        self._fresh.append(points)
        if now or sum(len(part.labels) for part in self._fresh) > HULL_POINTS:
            for part in self._fresh:
                self._points = self._points.with_more(part)
            self._points, self._fresh = self._points.hull(), []

    def _measure_edges(self, labels: np.ndarray) -> None:
        """Count the 2x2 windows of each particle in `labels` (n, columns + 2), padded by background left and right."""
        corners = [labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]]
        mixed = (corners[0] != corners[1]) | (corners[0] != corners[2]) | (corners[0] != corners[3])
        corners = [corner[mixed] for corner in corners]
        for place, label in enumerate(corners):
            mine = label > 0
            for earlier in corners[:place]:
                mine &= earlier != label
            code = np.zeros(int(mine.sum()), np.int64)
            for bit, corner in enumerate(corners):
                code |= (corner[mine] == label[mine]).astype(np.int64) << bit
            for name, values in (("along", _ALONG), ("down", _DOWN), ("diagonal", _DIAGONAL), ("euler", _EULER)):
                self._count(_SUMS.index(name), label[mine], values[code])


def _frame(
    sums: dict[str, np.ndarray], hull: HullPoints, values: Sequence[str], sides: tuple[float, float] | None
) -> pd.DataFrame:
    area = sums["area"]
    lengths = _lengths(sums, hull, (1.0, 1.0))
    # With pixels that are no squares, shapes are those of the sample, not of the array.
    real = _lengths(sums, hull, sides) if sides else lengths
    columns = {
        "label": np.arange(1, len(area) + 1),
        "area_px": area.astype(np.int64),
        "centroid_row": sums["row"] / area,
        "centroid_column": sums["column"] / area,
        "touches_border": sums["border"] > 0,
        "circularity": np.minimum(4 * math.pi * real["area"] / real["perimeter"] ** 2, 1),
        "aspect_ratio": real["major_axis"] / real["minor_axis"],
        "orientation_deg": real["orientation"],
        "eccentricity": np.sqrt(np.maximum(1 - (real["minor_axis"] / real["major_axis"]) ** 2, 0)),
        "solidity": area / convex_pixels(hull, len(area)),
        "holes": np.round(1 - sums["euler"] / 4).astype(np.int64),
        **{name: sums[name] / area for name in values},
    }
    boxes = bounding_boxes(hull, len(area)).T
    columns |= dict(zip(("box_row", "box_column", "box_height_px", "box_width_px"), boxes, strict=True))
    for name in ("equivalent_diameter", "perimeter", "feret_max", "feret_min", "major_axis", "minor_axis"):
        columns[f"{name}_px"] = lengths[name]
        columns[f"{name}_nm"] = real[name]
    columns["area_nm2"] = real["area"]
    order = [*PIXEL_COLUMNS, *(name for name in VALUE_COLUMNS if name in values), *(NM_COLUMNS if sides else ())]
    return pd.DataFrame({name: columns[name] for name in order})


def _lengths(sums: dict[str, np.ndarray], hull: HullPoints, pixel: tuple[float, float]) -> dict[str, np.ndarray]:
    """Area, lengths and orientation for pixels of a height and width, in their unit.

    Perimeter by Crofton's formula with four directions: pi times the mean over directions of crossings x distance of
    the lines, directions weighted by the angle that is nearest to them. The ellipse has the particle's second moments.
    """
    high, wide = pixel
    area = sums["area"]
    slope = math.atan2(high, wide)
    perimeter = slope * high * sums["along"] + (math.pi / 2 - slope) * wide * sums["down"]
    perimeter = (perimeter + math.pi / 4 * high * wide / math.hypot(high, wide) * sums["diagonal"]) / 2
    row, column = sums["row"] / area, sums["column"] / area
    rows = (sums["row_row"] / area - row**2 + 1 / 12) * high**2
    columns = (sums["column_column"] / area - column**2 + 1 / 12) * wide**2
    mixed = (sums["row_column"] / area - row * column) * high * wide
    middle, spread = (rows + columns) / 2, np.hypot((rows - columns) / 2, mixed)
    feret = feret_diameters(hull, len(area), pixel)
    # Rows count downwards, angles upwards; rounding makes 180 of an angle just below 0.
    turned = np.degrees(np.arctan2(-2 * mixed, columns - rows) / 2) % 180
    return {
        "area": area * high * wide,
        "perimeter": perimeter,
        "equivalent_diameter": np.sqrt(4 * area * high * wide / math.pi),
        "feret_max": feret[:, 0],
        "feret_min": feret[:, 1],
        "major_axis": 4 * np.sqrt(middle + spread),
        "minor_axis": 4 * np.sqrt(np.maximum(middle - spread, 0)),
        "orientation": np.where(turned < 180, turned, 0),
    }
