"""Reading one image file: its header first, then its pixels as grey values, each failure as one named problem.

One rule for every format and size: an image is read as a viewer shows it (orientation, palette, 0 as white), at its own
depth. Sizes are judged from the header, so that a picture too large to train on is refused before a pixel of it is
decoded. Each format has one module: `tiff_file`, `pillow_file` (with `png_rows`) and `microscope_file`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from sage_ray.data.microscope_file import READERS, open_microscope_file
from sage_ray.data.pillow_file import open_pillow
from sage_ray.data.problems import BadFile as BadFile
from sage_ray.data.problems import Problem as Problem
from sage_ray.data.problems import bad_file, unreadable
from sage_ray.data.shown import refuse_pages, whole_grey
from sage_ray.data.stored_picture import MAX_BLOCK_BYTES, StoredPicture
from sage_ray.data.tiff_file import SIGNATURES, open_tiff

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"})
MICROSCOPE_SUFFIXES = frozenset(READERS)
"""Files that are read where the optional extra `microscopes` is installed."""
MAX_PIXELS = 64_000_000
"""Largest image that training reads, in pixels (8,000 x 8,000); it bounds the memory of one decoded image."""

Read = TypeVar("Read")


def open_image(path: Path) -> StoredPicture:
    """The header of an image or mask file, whatever its size.

    Raises:
        BadFile: missing, empty or unreadable file, or a kind that is not supported.
    """
    try:
        if path.stat().st_size == 0:
            raise bad_file("empty file (0 bytes)", path, "replace it, or remove it with its partner")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise unreadable(path, error) from None
    if path.suffix.lower() in MICROSCOPE_SUFFIXES:
        return open_microscope_file(path)
    if head[:4] not in SIGNATURES:
        return open_pillow(path)
    try:
        return open_tiff(path)
    except BadFile as bad:
        return _second_opinion(path, bad)
    except ValueError as error:
        mend = "save it as 8 or 16 bit grey or RGB, without compression or with deflate"
        return _second_opinion(path, bad_file(f"TIFF of a kind that is not supported ({error})", path, mend))


def _second_opinion(path: Path, bad: BadFile) -> StoredPicture:
    """What Pillow makes of a TIFF that tifffile does not read; `bad` is raised if it does not read it either."""
    if bad.problem.what.startswith(("file with", "volume of", "truncated")):
        raise bad from None
    try:
        return open_pillow(path)
    except BadFile:
        raise bad from None


def decoded(path: Path, use: Callable[[StoredPicture], Read]) -> Read:
    """What `use` makes of the samples of a file; of a TIFF that tifffile cannot decode, Pillow's are taken.

    Raises:
        BadFile: as `header_size`, and what `use` raises.
    """
    picture = open_image(path)
    _refuse_too_large(picture)
    try:
        return use(picture)
    except BadFile as bad:
        if picture.format != "TIFF" or bad.problem.what != "unreadable image file":
            raise
        other = _second_opinion(path, bad)
        try:
            return use(other)
        except BadFile:
            raise bad from None


def header_size(path: Path) -> tuple[int, int]:
    """(rows, columns) from the file's header, without decoding, as a viewer shows the picture.

    Raises:
        BadFile: missing, empty or unreadable file, a kind that is not supported, or more than MAX_PIXELS pixels.
    """
    picture = open_image(path)
    _refuse_too_large(picture)
    return picture.shape


def _refuse_too_large(picture: StoredPicture) -> None:
    rows, columns = picture.shape
    if rows * columns > MAX_PIXELS:
        raise bad_file(
            f"image too large to train on ({rows} x {columns} pixels)",
            picture.path,
            f"cut it into tiles of at most {MAX_PIXELS:,} pixels (`predict` takes any size)",
        )


def read_image(path: Path) -> np.ndarray:
    """Grey image (H,W) as a viewer shows it: uint8, uint16, float32, or float64 where that would round.

    Colour becomes luminance of its own depth; opacity is dropped.

    Raises:
        BadFile: as `header_size`, or pixels that cannot be decoded or are not finite, or several pages.
    """
    return decoded(path, whole_grey)


def refuse_if_not_held(picture: StoredPicture) -> None:
    """Refuse a picture too large to decode at once whose rows do not come from the top, or that has several pages.

    Raises:
        BadFile: such a picture.
    """
    refuse_pages(picture)
    rows, columns = picture.shape
    held = rows * columns * picture.dtype.itemsize
    if not picture.is_streamed_upright and held > MAX_BLOCK_BYTES:
        what = f"image of {rows} x {columns} pixels that has to be turned (orientation {picture.look.orientation})"
        raise bad_file(what, picture.path, "save it upright")
