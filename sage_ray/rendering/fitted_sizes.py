"""Laws of particle diameters: given, or fitted to a table of particles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sage_ray.errors import UserError
from sage_ray.imaging.particles import particle_table
from sage_ray.rendering.scenes import Diameters

LEAST, LARGEST = 0.02, 0.9
"""Diameters that are drawn, as shares of the image's smaller side; what falls outside is moved to these."""
LEAST_PARTICLES = 5
COLUMN = "equivalent_diameter_px"


def given_sizes(
    law: str, diameter: float, spread: float, second_diameter: float = 0.3, second_share: float = 0.0
) -> Diameters:
    """A law of the settings: `normal`, `lognormal` (median, deviation of the logarithm) or `bimodal` (two normals)."""

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        middle = np.full(count, diameter)
        if law == "bimodal":
            middle = np.where(rng.random(count) < second_share, second_diameter, diameter)
        noise = rng.normal(0, spread, count)
        drawn: np.ndarray = np.clip(middle * (np.exp(noise) if law == "lognormal" else 1 + noise), LEAST, LARGEST)
        return drawn

    return draw


def fit_lognormal(
    diameters_px: np.ndarray, smaller_side: int, where: str = "render.sizes=fitted"
) -> tuple[float, float]:
    """Median as a share of the image's smaller side, and deviation of the logarithm, of diameters (n,) in pixels.

    Args:
        diameters_px: what is not finite or not above 0 is left out.
        smaller_side: of the image, in pixels.
        where: names their source in an error.

    Raises:
        UserError: fewer than 5 of them.
    """
    found = diameters_px[np.isfinite(diameters_px) & (diameters_px > 0)]
    if len(found) < LEAST_PARTICLES:
        what = f"too few particles to fit sizes to ({len(found)} of known size, {LEAST_PARTICLES} needed)"
        raise UserError(what, where, "give render.sizes=lognormal and render.diameter")
    logs = np.log(found / smaller_side)
    return float(np.exp(logs.mean())), float(min(logs.std(ddof=1), 2.0))


def diameters_of_masks(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Equivalent diameters in pixels of the particles of masks (H,W), those that the frame cuts left out.

    Particles that touch are told apart by shape (`imaging.splitting`).
    """
    tables = [particle_table(mask, min_object_pixels=8, split="watershed") for mask in masks]
    whole = pd.concat([table[~table["touches_border"].astype(bool)] for table in tables])
    return whole[COLUMN].to_numpy(float)


def diameters_of_table(path: Path) -> np.ndarray:
    """Equivalent diameters in pixels of a particles.csv that `sage-ray predict` wrote.

    Raises:
        UserError: no such file, no such column in it, or a value that is no number.
    """
    where = f"render.sizes_table={path}"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError("cannot be read", where, f"give a particles.csv ({error})") from None
    if COLUMN not in table:
        raise UserError(f"no column {COLUMN}", where, "give a particles.csv of predict")
    if "touches_border" in table:
        table = table[~table["touches_border"].astype(bool)]
    try:
        return table[COLUMN].to_numpy(float)
    except ValueError as error:
        raise UserError(f"column {COLUMN} is not of numbers", where, f"give pixels ({error})") from None
