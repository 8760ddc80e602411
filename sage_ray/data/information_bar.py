"""The information bar at the bottom of a micrograph: its rows by what the file says, or by its look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sage_ray.data.acquisition import acquisitions
from sage_ray.data.images import MICROSCOPE_SUFFIXES

LEAST_ROWS, MOST = 4, 1 / 3
"""A bar has at least so many rows, and at least a fiftieth and at most this share of the image's."""
NEAR = ((0.015, 2.5), (0.03, 5.0), (0.03, 8.0))
"""Grey values within this share of the micrograph's range, or so many of 256, are the same: a bar is drawn in one
value, but JPEG adds noise to it. What is found with less of it counts."""
GROUND, MARGIN, EDGE, ABOVE = 0.4, 0.9, 0.7, 0.3
"""Least share of the ground's colour in a row of a bar, in its emptiest row, near its upper edge; most above it."""
LEAP, ABOVE_LEAP = 4.0, 0.8
"""Most of the rows above that lies within so many times `NEAR` of the ground."""
OF_BAR, MEAN = 0.8, 0.5
"""Least share of the bar's rows that are such, the frame below it and rows full of text being none; least mean."""
RULE = 0.95
"""Least share of a row of one value that is a drawn line."""
_LOOKED_ABOVE, _SOFT, _RULE_ROWS = 6, 3, 4
_COLUMNS = 1024


@dataclass(frozen=True)
class InformationBar:
    """Rows of the bar at the bottom of an image, and how they were found."""

    rows: int
    origin: str
    """Such as "FEI metadata", or "its look"."""


LOOK, NO_BAR = "its look", "no bar seen"


def information_bar(path: Path, image: np.ndarray) -> InformationBar | None:
    """The bar of an image, by what its tags or the text beside it say, else by its look; None if it has none.

    Args:
        path: the file.
        image: grey (H,W) of any real dtype, as a viewer shows it.
    """
    said = None if path.suffix.lower() in MICROSCOPE_SUFFIXES else _said(path, (image.shape[0], image.shape[1]))
    if said is not None:
        return said
    rows = bar_rows(image)
    return InformationBar(rows, LOOK) if rows else None


def _said(path: Path, shape: tuple[int, int]) -> InformationBar | None:
    """A bar by the rows that were scanned: those of the image beyond them are the bar."""
    for record in acquisitions(path):
        if record.scanned is None or record.scanned[1] != shape[1]:
            continue
        rows = shape[0] - record.scanned[0]
        if LEAST_ROWS <= rows <= shape[0] * MOST:
            return InformationBar(rows, record.origin)
    return None


def bar_rows(image: np.ndarray) -> int:
    """Rows of an information bar at the bottom of a grey image (H,W), as its look tells; 0 if there is none.

    The rows of a bar have one value, its ground, over much of their width, the rest being text; it is ground nearly
    from side to side somewhere; and the rows above the bar are hardly ground at all, or a drawn line parts them from
    it. Lines of one value across the image belong to the bar.
    """
    height = len(image)
    most = int(height * MOST)
    if height < 16 or image.shape[1] < 16:
        return 0
    columns = slice(None, None, max(image.shape[1] // _COLUMNS, 1))
    lower = image[-(most + _LOOKED_ABOVE + _SOFT + _RULE_ROWS) :, columns].astype(np.float32)[::-1]
    least, tolerances = max(LEAST_ROWS, height // 50), _tolerances(image)
    if not _has_even_row(lower, max(tolerances)):
        return 0
    for near in dict.fromkeys(tolerances):
        rules = _rules(lower, near)
        rows = max((_rows_on(lower, ground, near, rules, most) for ground in _grounds(lower, near, rules)), default=0)
        if rows >= least:
            return rows
    return 0


def _tolerances(image: np.ndarray) -> list[float]:
    upper = image[: len(image) // 2 : max(len(image) // 512, 1), :: max(image.shape[1] // 512, 1)]
    low, high = (float(value) for value in np.quantile(upper, (0.01, 0.99)))
    if high <= low:
        low, high = float(image.min()), float(image.max())
    own = [share * (high - low) or 1e-12 for share, _ in NEAR]
    return [max(near, least) for near, (_, least) in zip(own, NEAR, strict=True)] if image.dtype == np.uint8 else own


def _has_even_row(lower: np.ndarray, near: float) -> bool:
    """Whether a row can be ground nearly from side to side, judged by some of its columns: few micrographs have one."""
    some = lower[:, :: max(lower.shape[1] // 256, 1)]
    even = np.abs(some - np.median(some, axis=1, keepdims=True)) <= 2 * near
    return bool((even.mean(axis=1) >= MARGIN - 0.05).any())


def _rules(lower: np.ndarray, near: float) -> np.ndarray:
    """Whether each row is a drawn line: one value from side to side."""
    middle = np.median(lower, axis=1, keepdims=True)
    one_value: np.ndarray = (np.abs(lower - middle) <= near).mean(axis=1) >= RULE
    return one_value


def _grounds(lower: np.ndarray, near: float, rules: np.ndarray) -> list[float]:
    """Values that may be the ground of a bar: the commonest ones of the lowest rows, lines left out."""
    grounds: list[float] = []
    for rows in sorted({max(len(lower) // part, 3) for part in (3, 6, 12, 24)}):
        for values in (lower[:rows], lower[:rows][~rules[:rows]]):
            if not values.size:
                continue
            whole = np.round(values / near).astype(np.int64)
            found, counts = np.unique(whole, return_counts=True)
            centre = found[counts.argmax()] * near
            ground = float(np.median(values[np.abs(values - centre) <= near]))
            if all(abs(ground - other) > near for other in grounds):
                grounds.append(ground)
    return grounds


def _rows_on(lower: np.ndarray, ground: float, near: float, rules: np.ndarray, most: int) -> int:
    """Rows of a bar with this ground, counted from the bottom; 0 if there is none."""
    share = (np.abs(lower - ground) <= near).mean(axis=1)
    of_bar = (share >= GROUND) | rules
    counts, sums = np.cumsum(of_bar), np.cumsum(np.where(rules, 1.0, share))
    for rows in range(min(most, len(share) - _LOOKED_ABOVE - _SOFT), LEAST_ROWS - 1, -1):
        if not of_bar[rows - 1] or share[rows : rows + 1].max() >= GROUND:
            continue
        # JPEG and resampling leave a row or two that are neither bar nor micrograph.
        above = share[rows + _SOFT - 1 : rows + _SOFT - 1 + _LOOKED_ABOVE].max()
        edge = share[max(rows - _LOOKED_ABOVE, 0) : rows].max()
        is_even = counts[rows - 1] >= OF_BAR * rows and sums[rows - 1] >= MEAN * rows
        if is_even and above <= ABOVE and edge >= EDGE and share[:rows].max() >= MARGIN:
            # The shading of an empty field leaves the tolerance within a few rows too, but it does not leap.
            next_rows = lower[rows + _SOFT - 1 : rows + _SOFT - 1 + _LOOKED_ABOVE]
            if (np.abs(next_rows - ground) <= LEAP * near).mean() > ABOVE_LEAP:
                return 0
            lines = int(np.argmax(share[:rows][::-1] >= GROUND))
            return rows if lines <= _RULE_ROWS - 1 else rows - lines  # so many are a flat part of the micrograph
    return _rows_below_a_line(share, ground, lower, near, rules, most)


def _rows_below_a_line(
    share: np.ndarray, ground: float, lower: np.ndarray, near: float, rules: np.ndarray, most: int
) -> int:
    """Rows up to the uppermost drawn line of another value than the ground, all rows below it being a bar's."""
    of_bar = (share >= GROUND) | rules
    reach = min(int(len(of_bar) if of_bar.all() else of_bar.argmin()), most)
    is_line = rules & (np.abs(np.median(lower, axis=1) - ground) > LEAP * near)
    for top in range(reach, _RULE_ROWS, -1):
        # The lowest rows may be the frame of the bar; a line that parts has rows that are no line below it.
        if is_line[top - 1] and not is_line[top : top + 1].any() and not is_line[top - _RULE_ROWS : top].all():
            is_drawn = share[: top - 1][~rules[: top - 1]]
            return top if is_drawn.size and share[:top].max() >= MARGIN else 0
    return 0
