"""Images of particle numbers: kept in a scratch file while the numbers are not final, then written as TIFF."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sage_ray.errors import CannotWrite
from sage_ray.imaging.band_writer import write_bands

BAND_ROWS = 256
MAX_16_BIT = 65_535


class LabelScratch:
    """Bands of labels (n, columns) int32, compressed in a temporary file that is gone when this is closed."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._sizes: list[int] = []

    def __enter__(self) -> LabelScratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, labels: np.ndarray) -> None:
        """Keep the next rows. Raises CannotWrite on a full disk."""
        for row in range(0, len(labels), BAND_ROWS):
            packed = zlib.compress(labels[row : row + BAND_ROWS].astype(np.int32).tobytes(), 1)
            try:
                self._file.write(packed)
            except OSError as error:
                where = tempfile.gettempdir()
                mend = f"free space or set TMPDIR to another folder ({error.strerror})"
                raise CannotWrite("cannot write", where, mend) from None
            self._sizes.append(len(packed))

    def bands(self) -> Iterator[np.ndarray]:
        """The rows kept, from the top, in bands of at most `BAND_ROWS` rows."""
        self._file.seek(0)
        for size in self._sizes:
            yield np.frombuffer(zlib.decompress(self._file.read(size)), np.int32).reshape(-1, self._columns)


def write_labels(
    path: Path,
    shape: tuple[int, int],
    scratch: LabelScratch,
    numbers: np.ndarray,
    watch: Callable[[np.ndarray], None] | None = None,
) -> Path:
    """Write an image (rows, columns) of particle numbers as a deflate-compressed TIFF, and return its path.

    It has 16 bits, or 32 where there are more than 65,535 particles.

    Args:
        path: replaced only when all is written.
        shape: (rows, columns) that the labels in `scratch` have together.
        scratch: labels of the particles.
        numbers: (n + 1,) the number to write for each label, 0 for background.
        watch: called with each band (n, columns) of numbers.

    Raises:
        CannotWrite: full disk, or no permission.
    """
    dtype = np.uint16 if numbers.max(initial=0) <= MAX_16_BIT else np.uint32
    write_bands(path, shape, dtype, _numbered(scratch, numbers.astype(dtype), watch))
    return path


def _numbered(
    scratch: LabelScratch, numbers: np.ndarray, watch: Callable[[np.ndarray], None] | None
) -> Iterator[np.ndarray]:
    for band in scratch.bands():
        rows = numbers[band]
        if watch is not None:
            watch(rows)
        yield rows
