"""How many nanometres a pixel of the training images has, as far as their files say it."""

from __future__ import annotations

import numpy as np

from sage_ray.data.pairs import look_through
from sage_ray.data.pixel_size import pixel_size
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig

MAX_SPREAD = 4.0
"""Images whose pixels differ by more than this have no scale in common."""


def training_nm_per_pixel(config: DataConfig, data: PreparedData) -> tuple[float, float] | None:
    """Median (height, width) in nanometres of a pixel over the training images before resizing.

    None if fewer than half of the files say it; if they say sizes that are more than MAX_SPREAD apart, as then a
    median is the scale of few of them; or if there are no files: drawn data, or a folder that another machine holds.
    """
    if config.path.startswith("synthetic://"):
        return None
    try:
        images = {pair.stem: pair.image for pair in look_through(config.path, config.masks).pairs}
    except UserError:
        return None
    stems = [data.stems[row] for row in data.split.train]
    found = [size.nm for stem in stems if stem in images and (size := pixel_size(images[stem])) is not None]
    if not found or 2 * len(found) < len(stems):
        return None
    sides = np.array(found, float)
    if (sides.max(axis=0) > MAX_SPREAD * sides.min(axis=0)).any():
        return None
    height, width = np.median(sides, axis=0).tolist()
    return height, width
