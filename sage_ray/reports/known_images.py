"""What is known of the images of a study: their names, whether they are still there, and how their particles look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sage_ray.errors import UserError
from sage_ray.figures.shown_model import prepared_data
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder

MOST_LOOKED_AT = 256
"""Validation images whose grey values are looked at."""


@dataclass(frozen=True)
class KnownImages:
    """The images of a run, as far as they are there.

    Attributes:
        names: of all images, by sha256; {} where they are gone.
        dark: of each validation image whether its particles are darker than the ground around them, by sha256.
        lacking: what pictures of the model cannot be drawn for, such as images that are gone; "" if nothing.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    dark: Mapping[str, bool] = field(default_factory=dict)
    lacking: str = ""

    def name(self, sha: str) -> str:
        """The name of an image; the first digits of its sha256 where the images are gone."""
        return self.names.get(sha, sha[:8])


def known_images(home: Home, run_id: str) -> KnownImages:
    """The images of a finished run and of its locked test, whose names are read and whose grey values are not."""
    try:
        data = prepared_data(home, run_id)
    except UserError as error:
        return KnownImages(lacking=error.what)
    dark = {}
    for row in data.split.validation[:MOST_LOOKED_AT]:
        mask = data.masks[row] > 0
        if mask.any() and not mask.all():
            image = data.images[row]
            dark[data.shas[row]] = bool(image[mask].mean() < image[~mask].mean())
    lacking = "" if np.any([path.is_file() for path in RunFolder(home.runs / run_id).model.glob("*")]) else "no weights"
    return KnownImages(dict(zip(data.shas, data.stems, strict=True)), dark, lacking)
