"""The size of an image's pixels in nanometres: from its tags, a text file beside it, or a microscope's own format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sage_ray.data.acquisition import Acquisition, acquisitions
from sage_ray.data.images import MICROSCOPE_SUFFIXES, open_image
from sage_ray.data.microscope_file import microscope_scale
from sage_ray.data.problems import BadFile
from sage_ray.data.stored_picture import StoredPicture

SMALLEST, LARGEST = 1e-4, 1e5
"""Sides of a pixel in nanometres that are taken for what a microscope may have."""
AGREE = 0.01
"""Sizes within this of one another are the same: files round them."""


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel, and where it was found."""

    nm: tuple[float, float]
    """(height, width) of a pixel of the picture that a viewer shows, in nanometres."""
    origin: str
    """Such as "ImageJ", "FEI metadata" or "JEOL text file"."""
    note: str = ""
    """What a user should know of it, such as that the file says two sizes; "" for nothing."""


def pixel_size(path: Path) -> PixelSize | None:
    """The size of an image's pixels; None if nothing says it, or nothing plausible. Nothing is decoded but the header.

    What a microscope wrote is believed before what ImageJ or OME wrote, then a text file beside the image, and last
    the resolution that any picture has, if it is fine enough to be no printer's.
    """
    try:
        picture = open_image(path)
    except BadFile:
        return None
    if path.suffix.lower() in MICROSCOPE_SUFFIXES:
        sides = microscope_scale(path)
        found = [Acquisition(f"{picture.format.removesuffix(' file')} metadata", sides)] if sides else []
    else:
        found = acquisitions(path)
    sizes = [size for record in found if (size := _fitted(record, picture)) is not None]
    if not sizes:
        return None
    first = sizes[0]
    others = [size for size in sizes[1:] if not _agree(size.nm, first.nm)]
    if others:
        other = others[0]
        told = f"{first.origin} says {said(first.nm)} and was taken, {other.origin} says {said(other.nm)}"
        first = replace(first, note="; ".join(filter(None, (first.note, f"two sizes of a pixel: {told}"))))
    return first


def said(nm: Sequence[float]) -> str:
    """A size of pixels in words: "1.2 nm", or "1.2 x 1.5 nm" (height x width)."""
    height, width = nm
    return f"{height:.4g} nm" if math.isclose(height, width, rel_tol=1e-6) else f"{height:.4g} x {width:.4g} nm"


def sizes_said(sizes: Sequence[PixelSize]) -> str:
    """Sizes of several images in words, at least one: "0.2 nm to 1 nm per pixel, from ImageJ (2)"."""
    sides = sorted((size.nm for size in sizes), key=lambda nm: nm[0] * nm[1])
    span = said(sides[0]) if sides[0] == sides[-1] else f"{said(sides[0])} to {said(sides[-1])}"
    origins = ", ".join(f"{origin} ({count})" for origin, count in Counter(s.origin for s in sizes).most_common())
    return f"{span} per pixel, from {origins}"


def _agree(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=AGREE) for a, b in zip(one, other, strict=True))


def _fitted(record: Acquisition, picture: StoredPicture) -> PixelSize | None:
    """The size that a record gives to the picture as a viewer shows it; None if it is no plausible one."""
    if record.nm is None or not all(math.isfinite(side) and SMALLEST <= side <= LARGEST for side in record.nm):
        return None
    nm, note = record.nm, ""
    columns = picture.stored_shape[1]
    if record.scanned is not None and record.scanned[1] != columns:
        taken = record.scanned[1]
        if _resampled(record.scanned, picture.stored_shape):
            nm = (nm[0] * taken / columns, nm[1] * taken / columns)
            note = (
                f"resampled from {taken} to {columns} columns after it was taken; its scale is multiplied accordingly"
            )
        else:
            note = f"taken with {taken} columns, and {columns} are left: the scale is right if they were cut out"
    if not all(SMALLEST <= side <= LARGEST for side in nm):
        return None
    turned = picture.look.orientation > 4
    return PixelSize((nm[1], nm[0]) if turned else nm, record.origin, note)


def _resampled(taken: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether a picture shows all that was scanned at another number of pixels, maybe with a bar below it."""
    rows = shape[0] * taken[1] / shape[1]
    return taken[0] * 0.99 <= rows <= taken[0] * 1.2
