"""A study's model beside its validation images: what it predicts, and what its particles measure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sage_ray.apply.fields_of_view import FieldOfView
from sage_ray.apply.particle_measure import MIN_PARTICLE_PIXELS
from sage_ray.apply.size_distribution import SizeReport, size_report
from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError
from sage_ray.imaging.model import Model, load_model_folder
from sage_ray.imaging.particles import particle_table
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder

MOST_PIXELS = 1 << 21
"""Pixels of validation images that are predicted for the sizes of particles: 32 images of 256 x 256."""


@dataclass(frozen=True, eq=False)
class ShownModel:
    """A model and the validation images that it is shown on; the locked test is not looked at.

    Attributes:
        model: of the run.
        config: of the run.
        data: that it was trained on.
        dice: of validation images by sha256, as the run recorded it.
    """

    model: Model
    config: ExperimentConfig
    data: PreparedData
    dice: dict[str, float]

    @property
    def rows(self) -> np.ndarray:
        """Places of the validation images in the data."""
        return self.data.split.validation

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Masks (n,H,W) bool of some images, one at a time so that memory stays small."""
        return np.stack([self.model.probabilities(self.data.images[row : row + 1])[0] > 0.5 for row in rows])

    @cached_property
    def measured(self) -> np.ndarray:
        """Places of the validation images whose particles are measured."""
        each = int(np.prod(self.data.images.shape[1:]))
        return self.rows[: max(MOST_PIXELS // each, 1)]

    def sizes(self, masks: np.ndarray) -> SizeReport:
        """Sizes of the particles of masks (n,H,W) of the images `measured`."""
        tables, fields = [], []
        for row, mask in zip(self.measured, masks, strict=True):
            sides = self._sides(int(row))
            name = f"{self.data.stems[row]} {row}"
            tables.append(particle_table(mask, sides, MIN_PARTICLE_PIXELS).assign(image=name))
            fields.append(FieldOfView(name, mask.shape[0], mask.shape[1], sides))
        return size_report(pd.concat(tables, ignore_index=True), fields)

    def _sides(self, row: int) -> tuple[float, float] | None:
        """(height, width) in nanometres of a pixel of a prepared image; None where the scale is not known."""
        original = self.model.nm_per_pixel
        if original is None:
            return None
        fact, shape = self.data.facts[row], self.data.images.shape[1:]
        rows = fact.rows - self.config.data.crop_bottom
        return original[0] * rows / shape[0], original[1] * fact.columns / shape[1]


def prepared_data(home: Home, run_id: str) -> PreparedData:
    """The images that a finished run was trained on, as its config has them.

    Raises:
        UserError: its images are gone or have changed.
    """
    folder = RunFolder.open(home.runs, run_id)
    record, data = folder.read(), prepare(folder.config().data, home.cache)
    if (data.fingerprint, data.split.split_id) != (record.data_fingerprint, record.split_id):
        mend = "bring back the images that it was trained on"
        raise UserError("images have changed since it was trained", f"run {run_id}", mend)
    return data


def load_shown(home: Home, run_id: str) -> ShownModel:
    """The model of a finished run on its validation images.

    Raises:
        UserError: its images are gone or have changed, or there is no validation part.
    """
    folder, data = RunFolder.open(home.runs, run_id), prepared_data(home, run_id)
    config = folder.config()
    if not len(data.split.validation):
        raise UserError("there are no validation images", f"run {run_id}", "choose another figure")
    dice = {
        row["image_sha"]: float(row["value"])
        for row in folder.per_image()
        if row["part"] == "val" and row["score"] == "dice" and np.isfinite(row["value"])
    }
    return ShownModel(load_model_folder(folder.model), config, data, dice)


def with_segmenter(shown: ShownModel) -> ShownModel:
    """The same model. Raises UserError if it has no segmenter."""
    shown.model.segmenting()
    return shown
