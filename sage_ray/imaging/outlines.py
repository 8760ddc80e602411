"""Outlines of particles along the edges of their pixels, as polygons that hold exactly the particle's pixels.

A polygon has corners at whole numbers, 0 being the image's left and top edge, so that a pixel's centre is never on it.
A hole is joined to the outline around it by a cut along a pixel edge, there and back: one polygon then says all, for
programs that know no holes, and holds by the even-odd rule what the particle holds. Read back by
`data.annotations`, outlines give the labels they were made of.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sage_ray.imaging.tiles import RowReader, RowSource

# Particles whose boxes begin within as many rows are cut out of the same rows.
BAND_ROWS = 256

Point = tuple[int, int]


def label_outlines(labels: RowSource, particles: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """Label and outline (n,2), x and y in pixels, of each particle in the order of the table.

    Rows are read as they are needed, so that an image need not be whole in memory.

    Args:
        labels: image of particle numbers.
        particles: `label` and the bounding box of each particle, in the order of first pixels (as tables are).
    """
    names = ["label", "box_row", "box_column", "box_height_px", "box_width_px"]
    boxes = particles[names].to_numpy(np.int64)
    reader, start = RowReader(labels.bands()), 0
    while start < len(boxes):
        first = int(boxes[start, 1])
        stop = start + int(np.searchsorted(boxes[start:, 1], first + BAND_ROWS))
        part = boxes[start:stop]
        rows = reader.take(first, int((part[:, 1] + part[:, 3]).max()))
        for label, row, column, height, width in part.tolist():
            inside = rows[row - first : row - first + height, column : column + width] == label
            yield label, outline_of(inside) + np.array([column, row])
        start = stop


def outline_of(inside: np.ndarray) -> np.ndarray:
    """Outline (n,2) int64, x and y from the array's corner, of the pixels (H,W) bool of a particle.

    Raises:
        ValueError: no pixel is inside.
    """
    loops = _loops(np.pad(inside, 1))
    if not loops:
        raise ValueError("a particle without pixels has no outline")
    # From the top, so that what lies above a hole is joined before the hole.
    loops.sort(key=lambda loop: (min(point[1] for point in loop), min(loop)))
    whole = loops[0]
    for loop in loops[1:]:
        whole = _joined(whole, loop)
    return np.array(_corners(whole), np.int64)


def _loops(padded: np.ndarray) -> list[list[Point]]:
    """Closed chains of pixel edges around what is inside, each as its points (x, y); the inside is on the right."""
    # Edges go right above pixels, down right of them, left below and up left of them.
    inside, out = padded[1:-1, 1:-1], ~padded
    edges: dict[Point, list[Point]] = {}
    for free, begin, end in (
        (out[:-2, 1:-1], (0, 0), (1, 0)),
        (out[1:-1, 2:], (1, 0), (1, 1)),
        (out[2:, 1:-1], (1, 1), (0, 1)),
        (out[1:-1, :-2], (0, 1), (0, 0)),
    ):
        rows, columns = np.nonzero(inside & free)
        starts = zip((columns + begin[0]).tolist(), (rows + begin[1]).tolist(), strict=True)
        ends = zip((columns + end[0]).tolist(), (rows + end[1]).tolist(), strict=True)
        for start, stop in zip(starts, ends, strict=True):
            edges.setdefault(start, []).append(stop)
    loops = []
    while edges:
        start = next(iter(edges))
        loop, before, here = [start], start, edges[start][0]
        _take(edges, start, here)
        while here != start:
            loop.append(here)
            before, here = here, _next(edges, before, here)
            _take(edges, before, here)
        loops.append(loop)
    return loops


def _next(edges: dict[Point, list[Point]], before: Point, here: Point) -> Point:
    """End of the edge that goes on; where pixels touch at a corner alone, to the right, around the same pixel."""
    ways = edges[here]
    if len(ways) == 1:
        return ways[0]
    right = (here[0] - (here[1] - before[1]), here[1] + (here[0] - before[0]))
    return right if right in ways else ways[0]


def _take(edges: dict[Point, list[Point]], start: Point, stop: Point) -> None:
    edges[start].remove(stop)
    if not edges[start]:
        del edges[start]


def _joined(whole: list[Point], loop: list[Point]) -> list[Point]:
    """Both chains as one: up from the loop's highest point to the first point of `whole`, around, and back."""
    top = min(range(len(loop)), key=lambda place: (loop[place][1], loop[place][0]))
    x, y = loop[top]
    around = [*loop[top:], *loop[: top + 1]]
    places = {point: place for place, point in enumerate(whole)}
    above = next((row for row in range(y, -1, -1) if (x, row) in places), None)
    if above is None:  # a piece apart, with nothing of the particle above: along the rows to the other one
        target = whole[0]
        path = [(step, y) for step in range(x, target[0], 1 if target[0] > x else -1)]
        path += [(target[0], row) for row in range(y, target[1], 1 if target[1] > y else -1)]
    else:
        target, path = (x, above), [(x, row) for row in range(y, above, -1)]
    place = places[target]
    return [*whole[: place + 1], *path[::-1], *around[1:-1], *path, *whole[place:]]


def _corners(loop: list[Point]) -> list[Point]:
    """The points at which a closed chain turns."""
    points = np.array(loop)
    # A chain may stand still where a cut has no length.
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = points[(np.sign(before) != np.sign(after)).any(axis=1)]
    return [(int(x), int(y)) for x, y in kept]
