"""Where the camera and the lights of a scene are.

The camera looks straight down from z = 6 on a flat stage at z = -4, with a field of view of 40 degrees along the
image's smaller side. A light goes all around the stage, so that slopes are brighter than what lies flat, as in an SEM.

Source: Possart et al., npj Comput. Mater. 11:197, 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FIELD_OF_VIEW = 40.0
"""Degrees, along the smaller side."""
CAMERA_HEIGHT, STAGE_HEIGHT = 6.0, -4.0
DISTANCE = CAMERA_HEIGHT - STAGE_HEIGHT
SMALLER_SIDE = 2 * DISTANCE * math.tan(math.radians(FIELD_OF_VIEW / 2))
"""What the smaller side of an image shows of the stage, in units of the scene."""
LIGHT_RADIUS = 14.0
"""Of the cylinder of light around the stage, which reaches from the stage to above the camera."""


@dataclass(frozen=True)
class View:
    """An image of `rows` x `columns` pixels of a scene."""

    rows: int
    columns: int

    @property
    def focal_pixels(self) -> float:
        """Pixels that a unit takes at a distance of one unit from the camera."""
        return min(self.rows, self.columns) / (2 * math.tan(math.radians(FIELD_OF_VIEW / 2)))

    @property
    def half_extent(self) -> tuple[float, float]:
        """Half of what the image shows of the stage along x and y, in units."""
        unit = SMALLER_SIDE / min(self.rows, self.columns)
        return self.columns * unit / 2, self.rows * unit / 2

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column, row (pixel centres at .5) and inverse distance along the axis, each (V,), of points (V,3)."""
        inverse = 1 / (CAMERA_HEIGHT - points[:, 2])
        column = points[:, 0] * inverse * self.focal_pixels + self.columns / 2
        row = -points[:, 1] * inverse * self.focal_pixels + self.rows / 2
        return column, row, inverse
