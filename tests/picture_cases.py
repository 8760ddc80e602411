"""A picture and the particles in it, for tests of how files of many kinds are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.measure import label

ROWS, COLUMNS = 70, 90
Write = Callable[..., None]


def discs(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Labels (rows, columns) int32 of discs that do not touch, numbered from 1; they cover about a fifth."""
    y, x = np.mgrid[:rows, :columns]
    found: np.ndarray = label((y % 18 - 9) ** 2 + (x % 18 - 9) ** 2 < 25, connectivity=1)
    return found.astype(np.int32)


LABELS = discs()
NUM = int(LABELS.max())
IMAGE = np.random.default_rng(0).integers(3, 250, (ROWS, COLUMNS)).astype(np.uint8)


def colour(grey: np.ndarray, channels: int = 3) -> np.ndarray:
    return np.repeat(grey[..., None], channels, axis=2)
