"""What an image file holds, whatever its format: stored samples in bands of rows, and how they are to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

MAX_BLOCK_BYTES = 1 << 29
"""Most bytes of samples that a reader holds at a time, where a format cannot be read in smaller parts."""
BAND_BYTES = 1 << 24
"""Bytes of samples in one band of rows, about, where a format can be read row by row."""

Kind = Literal["grey", "white_is_zero", "palette", "colour", "channels"]


@dataclass(frozen=True, eq=False)
class Look:
    """How the samples of a file are shown."""

    kind: Kind = "grey"
    """`white_is_zero`: grey with 0 as white; `channels`: several grey channels that are no colours."""
    bits: int = 0
    """Significant bits per sample where they are fewer than those of the dtype; 0: all of them."""
    palette: np.ndarray | None = None
    """(entries, 3) uint8 or uint16, for `palette`."""
    alpha: int | None = None
    """Channel that holds the opacity."""
    orientation: int = 1
    """Exif orientation, 1 to 8: how the stored rows and columns lie in the picture that a viewer shows."""


@dataclass(frozen=True, eq=False)
class StoredPicture:
    """An image file whose header was read; its samples are decoded when asked for."""

    path: Path
    format: str
    stored_shape: tuple[int, int]
    """(rows, columns) as stored, before the orientation is applied."""
    dtype: np.dtype
    """Of the samples, in native byte order."""
    channels: int
    read: Callable[[int], Iterator[np.ndarray]]
    """Bands of page n, from the top: (n, columns) samples, or (n, columns, channels) if there are several."""
    look: Look = Look()
    pages: int = 1
    """Pictures in the file; thumbnails and reduced copies do not count."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the picture that a viewer shows."""
        rows, columns = self.stored_shape
        return (columns, rows) if self.look.orientation > 4 else (rows, columns)

    @property
    def is_streamed_upright(self) -> bool:
        """Whether its bands can be used from the top, without holding the picture to turn it."""
        return self.look.orientation in (1, 2)


def parts(band: np.ndarray) -> Iterator[np.ndarray]:
    """A band of rows in parts of about `BAND_BYTES`, so that what is computed of it takes little memory."""
    step = max(BAND_BYTES // max(band[:1].nbytes, 1), 1)
    for row in range(0, len(band), step):
        yield band[row : row + step]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (rows, columns, ...) turned and mirrored to the picture that a viewer shows.

    Source: Exif 2.32, tag Orientation: 2, 4 mirror, 3 turns by 180 degrees, 5 to 8 exchange rows and columns.
    """
    if orientation > 4:
        pixels = np.swapaxes(pixels, 0, 1)
    mirrored = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(pixels, mirrored) if mirrored else pixels
