"""One image segmented and measured: its files in the folder of results, and what the tables of all images say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.fields_of_view import FieldOfView
from sage_ray.apply.particle_measure import ParticleMeasure, Thinned
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.data.notes import Note, range_note
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_overlay import particle_overlay
from sage_ray.imaging.rasters import open_rows, write_mask
from sage_ray.imaging.tiles import ArraySource, RowReader, RowSource


@dataclass(frozen=True)
class SegmentOptions:
    """How all images of a call are segmented and measured."""

    split: str
    """See `imaging.splitting.SPLITS`."""
    nm_per_pixel: tuple[float, float] | None
    """(height, width) of a pixel in nanometres, as the user says; None: not said."""


@dataclass(frozen=True)
class SegmentedImage:
    """What is kept of an image when its files are written."""

    path: Path
    mask: str
    """Path of the mask from the folder of results."""
    table: pd.DataFrame
    """One row per particle."""
    shape: tuple[int, int]
    field: FieldOfView
    """What of it was looked at, and its scale."""
    coverage: float
    """Share of foreground."""
    tiled: bool
    overlay: np.ndarray
    notes: list[Note]

    def row(self) -> dict[str, Any]:
        """The image's row of images.csv."""
        whole = self.table[~self.table["touches_border"].astype(bool)]
        return {
            "image": self.path.name,
            "rows": self.shape[0],
            "columns": self.shape[1],
            "tiled": self.tiled,
            "particles": len(self.table),
            "particles_inside": len(whole),
            "coverage": self.coverage,
            "median_equivalent_diameter_px": whole["equivalent_diameter_px"].median(),
            "mask": self.mask,
        }


def image_files(name: str) -> tuple[str, ...]:
    """Files that `segment_image` may write of an image whose results have this name, from the folder of results."""
    return f"masks/{name}.png", f"masks/{name}.tif", f"labels/{name}.tif", f"overlays/{name}.png"


def segment_image(
    model: Model, path: Path, name: str, results: ResultFolder, options: SegmentOptions
) -> SegmentedImage:
    """Write mask, label image and overlay of an image, and return the rest.

    Args:
        model: that segments.
        path: of the image.
        name: of its results, see `image_files`.
        results: where they go.
        options: alike for all images.

    Raises:
        CannotWrite: a file cannot be written.
        UserError: anything that is wrong with this image.
    """
    source, sides = open_rows(path), options.nm_per_pixel
    tiled = model.is_tiled(source.shape, nm_per_pixel=sides)
    results.begin()
    png, tif, labels_file, overlay_file = image_files(name)
    with ParticleMeasure(source.shape, options.split) as measure:
        thinned = Thinned(measure.step)
        masks = _measured(model.predict_stream(source, nm_per_pixel=sides), source, measure, thinned)
        if isinstance(source, ArraySource):
            written, mask = png, np.concatenate(list(masks))
            with results.file(png) as target:
                drawing.save(mask, target)
        else:
            written = tif
            with results.file(tif) as target:
                write_mask(target, source.shape, masks)
        with results.file(labels_file) as target:
            table, labels = measure.finish(target, sides)
    frame = table.frame
    cut = frame.loc[frame["touches_border"].astype(bool), "label"].tolist()
    overlay = particle_overlay(thinned.whole(), labels, cut, nm_per_pixel=sides[1] * measure.step if sides else None)
    with results.file(overlay_file) as target:
        drawing.save(overlay, target)
    return SegmentedImage(
        path=path,
        mask=written,
        table=frame,
        shape=source.shape,
        field=FieldOfView(path.name, source.shape[0] - _bar_rows(model), source.shape[1], sides),
        coverage=measure.foreground / (source.shape[0] * source.shape[1]),
        tiled=tiled,
        overlay=overlay,
        notes=_range_note(model, source, path),
    )


def _bar_rows(model: Model) -> int:
    return int(model.spec["preprocessing"]["crop_bottom"])


def _range_note(model: Model, source: RowSource, path: Path) -> list[Note]:
    # A large image of 32 bits or more would be read twice more, which takes longer than the line is worth.
    if not isinstance(source, ArraySource) and source.dtype.itemsize > 2:
        return []
    kept = (
        ArraySource(source.array[: source.shape[0] - _bar_rows(model)]) if isinstance(source, ArraySource) else source
    )
    return range_note(kept.bands, path, model.stretch, "clip them, or train a model with data.stretch=percentile")


def _measured(
    probabilities: Iterator[np.ndarray], source: RowSource, measure: ParticleMeasure, thinned: Thinned
) -> Iterator[np.ndarray]:
    """Bands of the mask of an image, measured as they pass."""
    reader, row = RowReader(source.bands()), 0
    for probability in probabilities:
        grey, mask = reader.take(row, row + len(probability)), probability > 0.5
        measure.add(mask, grey, probability)
        thinned.add(grey)
        row += len(mask)
        yield mask
