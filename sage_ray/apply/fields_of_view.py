"""What an image shows of a sample: its size, its scale, and one unit of length for all images together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sage_ray.data.notes import first_named


@dataclass(frozen=True)
class FieldOfView:
    """The part of an image that was looked at.

    Attributes:
        image: its name in the table of particles.
        rows: of that part, in pixels.
        columns: of that part, in pixels.
        sides: (height, width) of a pixel in nanometres; None: unknown.
        first_row: of that part.
        first_column: of that part.
    """

    image: str
    rows: int
    columns: int
    sides: tuple[float, float] | None = None
    first_row: int = 0
    first_column: int = 0


@dataclass(frozen=True)
class CommonUnit:
    """The unit in which particles of several images are put together: "nm" or "px", and why it is not nm."""

    name: str
    why_pixels: str | None = None

    def pixel(self, field: FieldOfView) -> tuple[float, float]:
        """(height, width) of a pixel of an image in this unit."""
        return field.sides if self.name == "nm" and field.sides else (1.0, 1.0)


def common_unit(particles: pd.DataFrame, fields: Sequence[FieldOfView]) -> CommonUnit:
    """Nanometres if every image with particles has a scale, otherwise pixels.

    Args:
        particles: with a column `image`.
        fields: of all images, those without particles too.
    """
    found = set(particles["image"]) if len(particles) else set()
    used = [field for field in fields if field.image in found] or list(fields)
    without = [field.image for field in used if field.sides is None]
    if not without:
        return CommonUnit("nm")
    if len(without) == len(used):
        return CommonUnit("px", "no image has a scale")
    named = f"{len(without)} of {len(used)} images have no scale ({first_named(without)})"
    return CommonUnit("px", f"{named}; a pixel need not mean the same length in all of them")
