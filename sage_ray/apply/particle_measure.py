"""The particles of one image while its mask passes by in bands: their table, their label image and a small picture."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import numpy as np

from sage_ray.imaging.instances import InstanceStream
from sage_ray.imaging.label_images import BAND_ROWS, LabelScratch, write_labels
from sage_ray.imaging.particle_columns import VALUE_COLUMNS
from sage_ray.imaging.particles import ParticleMeasures, ParticleTable, Scale

MIN_PARTICLE_PIXELS = 15
"""Smaller particles are left out of tables, label images and overlays, as object scores leave them out."""
PREVIEW_SIDE = 2048
"""Longest side of an overlay, in pixels; larger images are shown by every n-th pixel."""


class ParticleMeasure:
    """Takes bands of a mask with their grey values and probabilities; used as a context.

    Args:
        shape: (rows, columns) of the image.
        split: how touching particles are told apart, see `imaging.splitting.SPLITS`.
        crop_bottom: rows of the image that are not looked at: they are not added, and particles that they cut touch
            the border.
        voted: the bands come with the disagreement of seeds.
    """

    def __init__(self, shape: tuple[int, int], split: str, crop_bottom: int = 0, *, voted: bool = False) -> None:
        self.shape, self.foreground, self._crop = shape, 0, crop_bottom
        self.step = max(math.ceil(max(shape) / PREVIEW_SIDE), 1)
        self._stream = InstanceStream(shape[1], split, MIN_PARTICLE_PIXELS)
        self._measures = ParticleMeasures(shape[1], VALUE_COLUMNS[: 3 if voted else 2], self._stream.resolved)
        self._scratch = LabelScratch(shape[1])

    def __enter__(self) -> ParticleMeasure:
        return self

    def __exit__(self, *fault: BaseException | type[BaseException] | TracebackType | None) -> None:
        self._scratch.__exit__(*fault)

    def add(self, mask: np.ndarray, *values: np.ndarray) -> None:
        """Add the next rows (n, columns) of the mask (bool), and the values of `VALUE_COLUMNS` for the same pixels."""
        self.foreground += int(mask.sum())
        for labels, *settled in self._stream.add(mask, *values):
            self._keep(labels, *settled)

    @property
    def coverage(self) -> float:
        """Share of foreground in what was looked at."""
        return self.foreground / ((self.shape[0] - self._crop) * self.shape[1])

    def finish(self, target: Path, nm_per_pixel: Scale = None) -> tuple[ParticleTable, np.ndarray]:
        """After the last band: write the label image, and return the table and every `step`-th pixel of the labels.

        Both have the size of the image, with background where it was not looked at.

        Args:
            target: TIFF file to write.
            nm_per_pixel: side of a pixel in nanometres, or its (height, width), for columns in nm.

        Raises:
            UserError: the file cannot be written, or no size of a pixel.
        """
        for labels, *values in self._stream.finish():
            self._keep(labels, *values)
        for row in range(0, self._crop, BAND_ROWS):
            self._scratch.add(np.zeros((min(BAND_ROWS, self._crop - row), self.shape[1]), np.int32))
        table = self._measures.table(nm_per_pixel, MIN_PARTICLE_PIXELS)
        preview = Thinned(self.step)
        write_labels(target, self.shape, self._scratch, table.numbers, preview.add)
        return table, preview.whole()

    def _keep(self, labels: np.ndarray, *values: np.ndarray) -> None:
        self._measures.add(labels, *values)
        self._scratch.add(labels)


class Thinned:
    """Every `step`-th pixel of bands that pass by."""

    def __init__(self, step: int) -> None:
        self._step, self._row = step, 0
        self._kept: list[np.ndarray] = []

    def add(self, band: np.ndarray) -> None:
        """The next rows (n, columns)."""
        self._kept.append(band[-self._row % self._step :: self._step, :: self._step].copy())
        self._row += len(band)

    def whole(self) -> np.ndarray:
        """The picture of all rows so far."""
        return np.concatenate(self._kept)
