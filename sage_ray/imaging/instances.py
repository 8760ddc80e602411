"""The particles of a mask that comes in bands from the top and is never whole: bands of particle labels come out.

A 4-connected component of the mask is held until its last row is there, and then split as if the mask were whole. A
component that spans more than a window of rows (some 3 million pixels) is split window by window: each window
begins with some rows that are decided already and ends with some that the next window decides anew, and a particle
takes the label that most of its decided pixels have. Only at such seams can the result differ from that of the whole
mask, and only for particles higher than the rows that two windows share (a sixth of a window).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from sage_ray.imaging.splitting import NECK, Basins, check_split

WINDOW_PIXELS = 3_000_000
MIN_WINDOW_ROWS = 256


class InstanceStream:
    """Labels the particles of a mask that is added in bands; what is settled comes out, row after row.

    Labels are positive, given as particles come, and not yet those of a table: labels that turn out to be one particle
    are joined later, as `resolved` says. Memory is some 50 bytes for each pixel of one and a half windows of rows.

    Args:
        columns: of the mask.
        split: see `splitting.SPLITS`.
        min_object_pixels: smaller pieces are not split off.
        window_rows: a component that spans more rows than this is split window by window; None: as many as make
            some 3 million pixels.
        neck: see `splitting.NECK`.
    """

    def __init__(
        self, columns: int, split: str, min_object_pixels: int = 0, window_rows: int | None = None, neck: float = NECK
    ) -> None:
        self.columns, self.split = columns, check_split(split)
        self._min, self._neck = min_object_pixels, neck
        self._limit = window_rows or max(WINDOW_PIXELS // max(columns, 1), MIN_WINDOW_ROWS)
        self._shared = max(self._limit // 6, 1)
        self._mask = np.zeros((0, columns), bool)
        # Labels of decided pixels; minus the label that a pixel had in a window that could not decide it; 0.
        self._labels = np.zeros((0, columns), np.int32)
        self._values: list[np.ndarray] = []
        self._sent = 0  # rows at the start of what is held that have gone out
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._parent = [0]
        self._joined = False
        self._stands_for = np.zeros(0, np.int32)

    def add(self, band: np.ndarray, *values: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Add the next rows (n, columns), non-zero is particle; settled rows come out.

        Args:
            band: of the mask.
            values: further arrays (n, columns), such as grey values, that come out beside the labels of their rows.

        Yields:
            Labels (m, columns) int32 and the values of the same rows.

        Raises:
            ValueError: another number of columns.
        """
        if band.ndim != 2 or band.shape[1] != self.columns:
            raise ValueError(f"a band of shape {band.shape} in a mask of {self.columns} columns")
        self._waiting.append((band != 0, *values))
        new = sum(len(part[0]) for part in self._waiting)
        if new >= max(self._limit // 2, 1):
            self._take()
            yield from self._settle(last=False)

    def finish(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The rows that were still open, after the last band."""
        self._take()
        yield from self._settle(last=True)

    def resolved(self, labels: np.ndarray) -> np.ndarray:
        """Labels given so far, each replaced by the one that stands for its particle by now."""
        if not self._joined:
            return labels
        if len(self._stands_for) != len(self._parent):
            self._stands_for = np.array([self._root(label) for label in range(len(self._parent))], np.int32)
        return np.asarray(self._stands_for[labels])

    def _take(self) -> None:
        if not self._waiting:
            return
        masks, *values = ([part[place] for part in self._waiting] for place in range(len(self._waiting[0])))
        self._waiting = []
        self._mask = np.concatenate([self._mask, *masks])
        new = len(self._mask) - len(self._labels)
        self._labels = np.concatenate([self._labels, np.zeros((new, self.columns), np.int32)])
        held = self._values or [part[0][:0] for part in values]
        self._values = [np.concatenate([old, *parts]) for old, parts in zip(held, values, strict=True)]

    def _settle(self, *, last: bool) -> Iterator[tuple[np.ndarray, ...]]:
        rows = len(self._mask)
        components, number = ndimage.label(self._mask)
        open_ones = np.zeros(number + 1, bool)
        if number:
            open_ones[components[-1]] = not last
            open_ones[0] = False
        cut, seam = rows, False
        if open_ones.any():
            top = int(np.argmax(open_ones[components].any(axis=1)))
            seam = rows - max(top, self._sent - self._shared) >= self._limit
            cut = max(rows - self._shared if seam else top, self._sent)
        self._decide(components, open_ones, cut, seam)
        if cut > self._sent:
            labels = np.where(self._mask[self._sent : cut], self._labels[self._sent : cut], 0)
            done = cut - self._sent
            yield (labels, *(part[:done] for part in self._values))
            self._values = [part[done:] for part in self._values]
            # The row above a component has the background that its distances need.
            kept = min(self._shared if seam else 1, cut)
            self._mask, self._labels, self._sent = self._mask[cut - kept :], self._labels[cut - kept :], kept

    def _decide(self, components: np.ndarray, open_ones: np.ndarray, cut: int, seam: bool) -> None:
        """Label the pixels of finished components, and at a seam those above the cut of all others."""
        wanted = np.zeros(len(open_ones), bool)
        wanted[components[self._mask & (self._labels <= 0)]] = True
        if not seam:
            wanted &= ~open_ones
        work = wanted[components]
        if not work.any():
            return
        settled = ~open_ones[components]
        settled[:cut] = True
        regions = self._regions(components, work)
        above = np.zeros(int(regions.max()) + 1, bool)
        above[regions[settled & work]] = True
        above[0] = False
        names = np.where(above, self._names(regions, above), 0)[regions]
        undecided = work & (self._labels <= 0)
        self._labels[undecided] = np.where(settled, names, -names)[undecided]

    def _regions(self, components: np.ndarray, work: np.ndarray) -> np.ndarray:
        """Numbers (H,W) of the particles in the components that are worked on, 0 elsewhere."""
        if self.split == "none":
            return np.where(work, components, 0)
        rows = np.flatnonzero(work.any(axis=1))
        part = slice(max(int(rows[0]) - 1, 0), int(rows[-1]) + 2)
        regions = np.zeros(work.shape, np.int32)
        regions[part] = Basins.of(self._mask[part], work[part]).joined(self._neck, self._min)
        return regions

    def _names(self, regions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The label of each wanted region: the one that most of its pixels had before, or a new one."""
        given = np.zeros(len(wanted), np.int32)
        known = wanted[regions] & (self._labels != 0)
        codes = regions[known].astype(np.int64) * len(self._parent) + np.abs(self._labels[known])
        pairs, votes = np.unique(codes, return_counts=True)
        region, label = np.divmod(pairs, len(self._parent))
        taken: set[int] = set()
        for place in np.argsort(-votes, kind="stable").tolist():
            one, name = int(region[place]), int(label[place])
            if self.split == "none":
                given[one] = given[one] or name
                self._join(int(given[one]), name)
            elif not given[one] and name not in taken:
                given[one] = name
                taken.add(name)
        fresh = np.flatnonzero(wanted & (given == 0))
        given[fresh] = np.arange(len(self._parent), len(self._parent) + len(fresh))
        self._parent += range(len(self._parent), len(self._parent) + len(fresh))
        return given

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._parent[second] = first
            self._joined, self._stands_for = True, np.zeros(0, np.int32)

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label
