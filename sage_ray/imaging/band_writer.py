"""Images that are written while their rows come, and are never held whole: tiled TIFF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import DTypeLike

from sage_ray.errors import CannotWrite
from sage_ray.files import replacing

TILE = 256
# Bytes that are gathered before they are written; by default tifffile gathers half a gigabyte.
_BUFFER_BYTES = 1 << 24
_CLASSIC_BYTES = 1 << 31


def write_bands(path: Path, shape: tuple[int, int], dtype: DTypeLike, bands: Iterable[np.ndarray]) -> None:
    """Write an image (rows, columns) as a deflate-compressed TIFF in tiles; large ones are BigTIFF.

    Args:
        path: replaced only when all is written.
        shape: (rows, columns) of the image.
        dtype: of its values, such as uint8.
        bands: its rows (n, columns) from the top; together as many as `shape` says.

    Raises:
        CannotWrite: full disk, or no permission; or what `bands` raises.
    """
    try:
        with replacing(path, durable=False) as temporary:
            tifffile.imwrite(
                temporary,
                _tiles(bands, shape, np.dtype(dtype)),
                shape=shape,
                dtype=dtype,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="minisblack",
                bigtiff=shape[0] * shape[1] * np.dtype(dtype).itemsize > _CLASSIC_BYTES,
                buffersize=_BUFFER_BYTES,
                maxworkers=1,
            )
    except OSError as error:
        raise CannotWrite("cannot write", path, f"free space or choose another folder ({error.strerror})") from None


def _tiles(bands: Iterable[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> Iterator[np.ndarray]:
    held, done = np.zeros((0, shape[1]), dtype), 0
    for band in bands:
        held = np.concatenate([held, band.astype(dtype, copy=False)])
        while len(held) >= TILE or (len(held) and done + len(held) == shape[0]):
            yield from _tiles_of(held[:TILE])
            done += min(len(held), TILE)
            held = held[TILE:]
    assert done == shape[0], f"bands have {done} rows, the image {shape[0]}"


def _tiles_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    for column in range(0, rows.shape[1], TILE):
        tile = np.zeros((TILE, TILE), rows.dtype)
        part = rows[:, column : column + TILE]
        tile[: part.shape[0], : part.shape[1]] = part
        yield tile
