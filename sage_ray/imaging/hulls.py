"""Convex hulls of many particles at once, and what is measured on them: Feret diameters, areas, bounding boxes.

A particle is given by the first and last pixel of its runs along rows; these have the same hull as all of its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Vertices x vertices x particles that are compared at a time.
CHUNK = 1 << 20


@dataclass(frozen=True)
class HullPoints:
    """Points of particles: `labels`, `rows`, `columns`, each (K,) int64 pixel centres."""

    labels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def none(cls) -> HullPoints:
        """No point."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty)

    @classmethod
    def of_labels(cls, labels: np.ndarray, first_row: int) -> HullPoints:
        """Both ends of every run of equal labels > 0 along the rows of a band (n,W) that begins at `first_row`."""
        starts = labels > 0
        starts[:, 1:] &= labels[:, 1:] != labels[:, :-1]
        ends = labels > 0
        ends[:, :-1] &= labels[:, 1:] != labels[:, :-1]
        both = np.concatenate([np.argwhere(starts), np.argwhere(ends)])
        held = labels[both[:, 0], both[:, 1]].astype(np.int64)
        return cls(held, both[:, 0] + first_row, both[:, 1])

    def with_more(self, other: HullPoints) -> HullPoints:
        """The points of both."""
        return HullPoints(
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.columns, other.columns]),
        )

    def renamed(self, names: np.ndarray) -> HullPoints:
        """The same points with `names[label]` for each label; points of names below 0 are left out."""
        labels = names[self.labels]
        kept = labels >= 0
        return HullPoints(labels[kept], self.rows[kept], self.columns[kept])

    def hull(self) -> HullPoints:
        """The vertices of each particle's convex hull, by label, in order around it."""
        order = np.lexsort((self.columns, self.rows, self.labels))
        labels, rows, columns = self.labels[order], self.rows[order], self.columns[order]
        change = np.ones(len(labels) + 1, bool)
        change[1:-1] = (labels[1:] != labels[:-1]) | (rows[1:] != rows[:-1])
        left = _chain(labels[change[:-1]], rows[change[:-1]], columns[change[:-1]], 1)
        right = _chain(labels[change[1:]], rows[change[1:]], columns[change[1:]], -1)
        # Down the left side, up the right one; a row of one pixel has its end on both sides.
        found = left.with_more(right)
        side = np.repeat([0, 1], [len(left.labels), len(right.labels)])
        order = np.lexsort((np.where(side, -found.rows, found.rows), side, found.labels))
        around = HullPoints(found.labels[order], found.rows[order], found.columns[order])
        return around._without_doubles()

    def _without_doubles(self) -> HullPoints:
        order = np.lexsort((self.columns, self.rows, self.labels))
        same = np.zeros(len(order), bool)
        for values in (self.labels, self.rows, self.columns):
            same[1:] |= values[order][1:] != values[order][:-1]
        same[:1] = True
        kept = np.sort(order[same])
        return HullPoints(self.labels[kept], self.rows[kept], self.columns[kept])


def _chain(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, sign: int) -> HullPoints:
    """The convex part of one side, sign 1 the left one: points by label and row, dented ones taken out until none is.

    A vertex of the hull is never dented, whatever the points beside it, so all dented ones can go at once.
    """
    while len(labels) > 2:
        down, across = rows[2:] - rows[:-2], columns[2:] - columns[:-2]
        dent = sign * ((columns[1:-1] - columns[:-2]) * down - across * (rows[1:-1] - rows[:-2])) >= 0
        dent &= labels[2:] == labels[:-2]
        if not dent.any():
            break
        kept = np.concatenate([[True], ~dent, [True]])
        labels, rows, columns = labels[kept], rows[kept], columns[kept]
    return HullPoints(labels, rows, columns)


def convex_pixels(hull: HullPoints, number: int) -> np.ndarray:
    """Pixels (number,) whose centres lie in the hull of each label 0..number-1, by Pick's theorem."""
    following = _following(hull)
    down, across = hull.rows[following] - hull.rows, hull.columns[following] - hull.columns
    twice = hull.rows * hull.columns[following] - hull.rows[following] * hull.columns
    area = np.abs(np.bincount(hull.labels, twice, number)) / 2
    border = np.bincount(hull.labels, np.gcd(np.abs(down), np.abs(across)), number)
    return np.asarray(area + border / 2 + 1)


def bounding_boxes(hull: HullPoints, number: int) -> np.ndarray:
    """First row, first column, rows and columns (number, 4) int64 of the bounding box of each label 0..number-1."""
    boxes = np.zeros((number, 4), np.int64)
    for place, values in enumerate((hull.rows, hull.columns)):
        first, last = np.full(number, np.iinfo(np.int64).max), np.full(number, -1)
        np.minimum.at(first, hull.labels, values)
        np.maximum.at(last, hull.labels, values)
        boxes[:, place], boxes[:, place + 2] = first, last - first + 1
    return boxes


def feret_diameters(hull: HullPoints, number: int, pixel: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Largest and smallest Feret diameter (number, 2) of labels 0..number-1, whose pixels are rectangles.

    The largest is the greatest distance of two corners of pixels, the smallest the least distance of two parallel lines
    with the particle between them, which touch it along an edge of its hull.

    Args:
        hull: from `HullPoints.hull`; every label has a point.
        number: of labels.
        pixel: sides of a pixel along rows' and columns' axes (height, width), in the unit of the result.
    """
    counts = np.bincount(hull.labels, minlength=number)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    order = np.argsort(counts, kind="stable")
    result = np.zeros((number, 2))
    start = 0
    while start < number:
        stop = start + 1
        while stop < number and (stop + 1 - start) * counts[order[stop]] ** 2 <= CHUNK:
            stop += 1
        chosen = order[start:stop]
        # Shorter hulls repeat their first vertex.
        places = np.arange(counts[chosen[-1]])
        places = first[chosen, None] + np.where(places < counts[chosen, None], places, 0)
        points = np.stack([hull.rows[places] * pixel[0], hull.columns[places] * pixel[1]], axis=2)
        result[chosen] = _feret_of(points, pixel)
        start = stop
    return result


def _feret_of(points: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    apart = np.abs(points[:, :, None] - points[:, None]) + np.asarray(pixel)
    largest = np.sqrt((apart**2).sum(axis=3)).max(axis=(1, 2))
    edges = np.roll(points, -1, axis=1) - points
    axes = np.broadcast_to(np.eye(2), (len(points), 2, 2))
    normals = np.concatenate([np.stack([-edges[..., 1], edges[..., 0]], axis=2), axes], axis=1)
    lengths = np.sqrt((normals**2).sum(axis=2))
    heights = np.einsum("nek,nvk->nev", normals, points)
    # A pixel reaches half its extent along the normal beyond its centre, on both sides.
    widths = heights.max(axis=2) - heights.min(axis=2) + np.abs(normals) @ np.asarray(pixel)
    widths = np.where(lengths > 0, widths / np.where(lengths > 0, lengths, 1), np.inf)
    return np.stack([largest, widths.min(axis=1)], axis=1)


def _following(hull: HullPoints) -> np.ndarray:
    """Place of the next vertex around each hull."""
    following = np.arange(1, len(hull.labels) + 1)
    last = np.ones(len(following), bool)
    last[:-1] = hull.labels[1:] != hull.labels[:-1]
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(following) else np.zeros(0, np.int64)
    following[last] = starts
    return following
