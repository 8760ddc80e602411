"""Image files of any size as grey rows for a model, and masks written while they come (TIFF)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from sage_ray.data import images
from sage_ray.data.problems import BadFile
from sage_ray.data.shown import grey_bands, shown_dtype
from sage_ray.data.stored_picture import StoredPicture
from sage_ray.errors import UserError
from sage_ray.files import replacing
from sage_ray.imaging.tiles import ArraySource, RowSource

# Bytes that are gathered before they are written.
_WRITE_BYTES = 1 << 24
WRITE_TILE = 256


def open_rows(path: Path) -> RowSource:
    """An image file as bands of grey rows, with the values that training reads.

    Up to `data.images.MAX_PIXELS` pixels it is decoded at once, and larger ones in bands.

    Raises:
        UserError: what `data.images.open_image` and `data.images.read_image` refuse; bands may raise it too.
    """
    try:
        picture = images.open_image(path)
        if picture.shape[0] * picture.shape[1] <= images.MAX_PIXELS:
            return ArraySource(images.read_image(path))
        images.refuse_if_not_held(picture)
    except BadFile as bad:
        raise bad.problem.error() from None
    return FileRows(picture)


@dataclass(frozen=True, eq=False)
class FileRows:
    """An image file that is read again for each pass over its rows, and never held whole if its format allows it."""

    picture: StoredPicture

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the picture that a viewer shows."""
        return self.picture.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the grey values."""
        return shown_dtype(self.picture)

    def bands(self) -> Iterator[np.ndarray]:
        """Bands (n, columns) of grey rows. Raises UserError if they cannot be decoded or are not finite."""
        try:
            for band in grey_bands(self.picture):
                if band.dtype.kind == "f" and not np.isfinite(band).all():
                    mend = "replace them, such as by the median of their neighbours, and save it again"
                    raise UserError("image with values that are not finite", self.picture.path, mend)
                yield band
        except BadFile as bad:
            raise bad.problem.error() from None


def write_mask(
    path: Path,
    shape: tuple[int, int],
    bands: Iterable[np.ndarray],
    watch: Callable[[np.ndarray], None] | None = None,
) -> None:
    """Write a mask (rows, columns), 0 and 255, to a deflate-compressed TIFF while its bands come; it is never whole.

    Args:
        path: replaced only when all is written.
        bands: foreground probabilities (n, columns) float32 from the top (`Model.predict_stream`), or masks (n,
            columns) bool; together as many rows as `shape` says.
        watch: called with each band as a mask (n, columns) bool, such as that of a measure.

    Raises:
        UserError: the file cannot be written (full disk, no permission), or what reading the image raises.
    """
    try:
        with replacing(path, durable=False) as temporary:
            tifffile.imwrite(
                temporary,
                _write_tiles(bands, shape, watch),
                shape=shape,
                dtype=np.uint8,
                tile=(WRITE_TILE, WRITE_TILE),
                compression="zlib",
                photometric="minisblack",
                bigtiff=shape[0] * shape[1] > 1 << 31,
                # By default tifffile gathers half a gigabyte of tiles before it writes them.
                buffersize=_WRITE_BYTES,
                maxworkers=1,
            )
    except OSError as error:
        raise UserError("cannot write", path, f"free space or choose another folder ({error.strerror})") from None


def _write_tiles(
    bands: Iterable[np.ndarray], shape: tuple[int, int], watch: Callable[[np.ndarray], None] | None
) -> Iterator[np.ndarray]:
    held = np.zeros((0, shape[1]), bool)
    done = 0
    for band in bands:
        mask = band if band.dtype == bool else band > 0.5
        if watch is not None:
            watch(mask)
        held = np.concatenate([held, mask])
        while len(held) >= WRITE_TILE or (len(held) and done + len(held) == shape[0]):
            yield from _tiles_of(held[:WRITE_TILE])
            done += min(len(held), WRITE_TILE)
            held = held[WRITE_TILE:]
    assert done == shape[0], f"bands have {done} rows, the image {shape[0]}"


def _tiles_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    for column in range(0, rows.shape[1], WRITE_TILE):
        tile = np.zeros((WRITE_TILE, WRITE_TILE), np.uint8)
        part = rows[:, column : column + WRITE_TILE]
        tile[: part.shape[0], : part.shape[1]] = part * np.uint8(255)
        yield tile
