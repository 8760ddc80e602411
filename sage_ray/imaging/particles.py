"""The table of particles of a mask, also of a mask that comes in bands and is never whole in memory.

The measures are those of scikit-image's `regionprops` (area, centroid, equivalent diameter, Crofton perimeter), to
which the tests hold them. They are summed by hand for two reasons. `regionprops` needs the whole mask and its labels,
which for a field of 100,000 x 100,000 pixels are 50 GB. And where a 4-connected particle meets itself at a corner,
`perimeter_crofton` joins the two pieces of its edge and reports less perimeter than it has.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import ndimage

from sage_ray.errors import UserError

PIXEL_COLUMNS = (
    "label",
    "area_px",
    "equivalent_diameter_px",
    "centroid_row",
    "centroid_column",
    "perimeter_px",
    "circularity",
    "touches_border",
)
NM_COLUMNS = ("area_nm2", "equivalent_diameter_nm", "perimeter_nm")
BAND_ROWS = 512

# A 2x2 window of a mask as a number: bit 0 upper left, 1 upper right, 2 lower left, 3 lower right. Two pixels that
# touch at a corner alone count as two pieces, as 4-connectivity has it: windows 6 and 9.
_BITS = np.array([[(code >> bit) & 1 for bit in range(4)] for code in range(16)])
_STRAIGHT = (_BITS[:, 2] != _BITS[:, 3]).astype(float) + (_BITS[:, 1] != _BITS[:, 3])
_DIAGONAL = (_BITS[:, 0] != _BITS[:, 3]).astype(float) + (_BITS[:, 1] != _BITS[:, 2])
_LENGTH = math.pi / 8 * (_STRAIGHT + _DIAGONAL / math.sqrt(2))
_CORNER_PAIRS = {6: ((1, 2), (2, 4)), 9: ((0, 1), (3, 8))}


def particle_table(mask: np.ndarray, nm_per_pixel: float | None = None, min_object_pixels: int = 0) -> pd.DataFrame:
    """One row per 4-connected particle of a mask (H,W), non-zero is particle.

    Columns: `label` (1..n, by first pixel, row by row), `area_px`, `equivalent_diameter_px` (of the disc of equal
    area), `centroid_row` and `centroid_column` (pixel centres, from 0), `perimeter_px` (Crofton's formula with four
    directions; counting pixel edges would make a disc's perimeter a quarter too long), `circularity` (4 pi area /
    perimeter^2, at most 1; says little of particles under some 30 pixels), `touches_border` (cut by the frame, so
    area and shape are not its own); with `nm_per_pixel` also `area_nm2`, `equivalent_diameter_nm`, `perimeter_nm`.

    Args:
        mask: (H,W), any dtype.
        nm_per_pixel: side of a pixel in nanometres.
        min_object_pixels: smaller particles are left out; labels stay without gaps.

    Raises:
        UserError: `nm_per_pixel` is not a positive number.
        ValueError: the mask is not two-dimensional.

    Source: Legland, Kieu, Devaux, Image Anal. Stereol. 26, 2007, for the perimeter.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has rows and columns, not shape {mask.shape}")
    counter = ParticleCounter(mask.shape[1])
    for row in range(0, mask.shape[0], BAND_ROWS):
        counter.add(mask[row : row + BAND_ROWS])
    return counter.table(nm_per_pixel, min_object_pixels)


class ParticleCounter:
    """Measures the particles of a mask that is added in bands from the top; `table` is that of the whole mask.

    Memory grows with the number of particles and with the size of a band, not with the height of the mask.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows = 0
        # Union-find over labels of all bands; entry 0 is background. Columns of sums: area, rows, columns, border,
        # perimeter.
        self._parent = np.zeros(1, np.int64)
        self._sums = np.zeros((1, 5))
        self._last = np.zeros((1, columns + 2), np.int64)

    def add(self, band: np.ndarray) -> None:
        """Add the next rows (n, columns) of the mask, non-zero is particle.

        Raises:
            ValueError: another number of columns.
        """
        if band.ndim != 2 or band.shape[1] != self.columns:
            raise ValueError(f"a band of shape {band.shape} in a mask of {self.columns} columns")
        if not len(band):
            return
        found, number = ndimage.label(band)
        offset = len(self._parent) - 1
        self._parent = np.concatenate([self._parent, np.arange(offset + 1, offset + number + 1)])
        self._sums = np.concatenate([self._sums, np.zeros((number, 5))])
        rows, columns = np.nonzero(found)
        held = found[rows, columns]
        for place, weights in enumerate((None, rows + self.rows, columns)):
            self._sums[offset + 1 :, place] = np.bincount(held, weights, number + 1)[1:]
        labels = np.pad(np.where(found, found + offset, 0).astype(np.int64), ((0, 0), (1, 1)))
        self._border(labels[:, 1], labels[:, -2], *([labels[0]] if self.rows == 0 else []))
        self._join(self._last[0], labels[0])
        self._measure_edges(np.concatenate([self._last, labels]))
        self._last = labels[-1:].copy()
        self.rows += len(band)

    def table(self, nm_per_pixel: float | None = None, min_object_pixels: int = 0) -> pd.DataFrame:
        """One row per particle, see `particle_table`; called once, after the last band."""
        if nm_per_pixel is not None and not (math.isfinite(nm_per_pixel) and nm_per_pixel > 0):
            raise UserError(
                "no size of a pixel", f"nm_per_pixel={nm_per_pixel}", "give nanometres above 0, such as 1.5"
            )
        self._border(self._last[0])
        self._measure_edges(np.concatenate([self._last, np.zeros_like(self._last)]))
        self._last[:] = 0
        parent = self._parent
        while (parent != parent[parent]).any():
            parent = parent[parent]
        # A root is the smallest label of its particle, so roots in order are particles by first pixel.
        roots, index = np.unique(parent[1:], return_inverse=True)
        sums = np.zeros((len(roots), 5))
        np.add.at(sums, index, self._sums[1:])
        return _frame(sums[sums[:, 0] >= min_object_pixels], nm_per_pixel)

    def _border(self, *lines: np.ndarray) -> None:
        for line in lines:
            self._sums[:, 3] += np.bincount(line, minlength=len(self._parent))

    def _join(self, above: np.ndarray, below: np.ndarray) -> None:
        touching = (above > 0) & (below > 0)
        for one, other in np.unique(np.stack([above[touching], below[touching]]), axis=1).T:
            first, second = self._root(one), self._root(other)
            self._parent[max(first, second)] = min(first, second)

    def _root(self, label: int) -> int:
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return int(label)

    def _measure_edges(self, labels: np.ndarray) -> None:
        """Add the perimeters of all 2x2 windows of `labels` (n, columns + 2), padded by background left and right."""
        inside = (labels > 0).astype(np.uint8)
        codes = inside[:-1, :-1] | inside[:-1, 1:] << 1 | inside[1:, :-1] << 2 | inside[1:, 1:] << 3
        rows, columns = np.nonzero((codes > 0) & (codes < 15))
        codes = codes[rows, columns]
        corners = np.stack([labels[rows + down, columns + right] for down in (0, 1) for right in (0, 1)])
        paired = (codes == 6) | (codes == 9)
        total = len(self._parent)
        self._sums[:, 4] += np.bincount(corners.max(axis=0)[~paired], _LENGTH[codes[~paired]], total)
        for code, pieces in _CORNER_PAIRS.items():
            for corner, piece in pieces:
                self._sums[:, 4] += _LENGTH[piece] * np.bincount(corners[corner][codes == code], minlength=total)


def _frame(sums: np.ndarray, nm_per_pixel: float | None) -> pd.DataFrame:
    area, row, column, border, perimeter = sums.T
    values = (
        np.arange(1, len(sums) + 1),
        area.astype(np.int64),
        np.sqrt(4 * area / math.pi),
        row / area,
        column / area,
        perimeter,
        np.minimum(4 * math.pi * area / perimeter**2, 1),
        border > 0,
    )
    frame = pd.DataFrame(dict(zip(PIXEL_COLUMNS, values, strict=True)))
    if nm_per_pixel is not None:
        scales = zip(NM_COLUMNS, ("area_px", "equivalent_diameter_px", "perimeter_px"), (2, 1, 1), strict=True)
        for name, source, power in scales:
            frame[name] = frame[source] * nm_per_pixel**power
    return frame
