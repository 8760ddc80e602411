"""Image files of any size as grey rows for a model, and masks written while they come (TIFF)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sage_ray.data import images
from sage_ray.data.problems import BadFile, unreadable
from sage_ray.data.shown import grey_bands, shown_dtype
from sage_ray.data.stored_picture import StoredPicture
from sage_ray.errors import UserError
from sage_ray.imaging.band_writer import write_bands
from sage_ray.imaging.tiles import ArraySource, RowSource


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
        except OSError as error:  # a share that went away must not look like a disk that is full
            raise unreadable(self.picture.path, error).problem.error() from None


def write_mask(path: Path, shape: tuple[int, int], bands: Iterable[np.ndarray]) -> None:
    """Write a mask (rows, columns), 0 and 255, to a deflate-compressed TIFF while its bands come.

    Args:
        path: replaced only when all is written.
        shape: (rows, columns) of the mask.
        bands: its rows (n, columns) bool from the top.

    Raises:
        CannotWrite: full disk, or no permission; or what reading the image raises.
    """
    write_bands(path, shape, np.uint8, (band * np.uint8(255) for band in bands))
