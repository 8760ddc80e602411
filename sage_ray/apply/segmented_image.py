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
from sage_ray.apply.picture_frame import AskedCrop, AskedScale, PictureFrame, picture_frame
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.data.notes import Note, range_note
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_overlay import particle_overlay
from sage_ray.imaging.rasters import open_rows, write_mask
from sage_ray.imaging.seed_votes import MOST_DISAGREEMENT, SeedVotes, doubt_of
from sage_ray.imaging.tiles import ArraySource, RowReader, RowSource


@dataclass(frozen=True)
class SegmentOptions:
    """How all images of a call are segmented and measured."""

    split: str
    """See `imaging.splitting.SPLITS`."""
    nm_per_pixel: AskedScale = None
    """Size of a pixel in nanometres, as the user says; None: what each file says."""
    crop_bottom: AskedCrop = None
    """Rows of the information bar, as the user says; None: as in training."""
    votes: SeedVotes | None = None
    """The seeds of the model, where all of them vote."""


@dataclass(frozen=True)
class SegmentedImage:
    """What is kept of an image when its files are written."""

    path: Path
    mask: str
    """Path of the mask from the folder of results."""
    table: pd.DataFrame
    """One row per particle."""
    shape: tuple[int, int]
    coverage: float
    """Share of foreground in what was looked at."""
    tiled: bool
    frame: PictureFrame
    overlay: np.ndarray
    notes: list[Note]
    doubt: float | None = None
    """`imaging.seed_votes.doubt_of` the image, where the seeds of a model voted."""

    @property
    def field(self) -> FieldOfView:
        """What of it was looked at, and its scale."""
        rows, columns = self.shape
        return FieldOfView(self.path.name, rows - self.frame.crop_bottom, columns, self.frame.sides)

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
            **self.frame.columns(),
            **({} if self.doubt is None else {"doubt": self.doubt}),
        }


def image_files(name: str, *, voted: bool = False) -> tuple[str, ...]:
    """Files that `segment_image` may write of an image whose results have this name, from the folder of results."""
    files = f"masks/{name}.png", f"masks/{name}.tif", f"labels/{name}.tif", f"overlays/{name}.png"
    return (*files, doubt_file(name)) if voted else files


def doubt_file(name: str) -> str:
    """The picture of where seeds disagree, from the folder of results."""
    return f"doubt/{name}.png"


def segment_image(
    model: Model, path: Path, name: str, results: ResultFolder, options: SegmentOptions
) -> SegmentedImage:
    """Write mask, label image and overlay of an image, and return the rest.

    Args:
        model: that segments; the registered seed where all vote.
        path: of the image.
        name: of its results, see `image_files`.
        results: where they go.
        options: alike for all images.

    Raises:
        CannotWrite: a file cannot be written.
        UserError: anything that is wrong with this image.
    """
    source = open_rows(path)
    model_crop = int(model.spec["preprocessing"]["crop_bottom"])
    looked = picture_frame(path, source, options.nm_per_pixel, options.crop_bottom, model_crop)
    sides, bar = looked.sides, looked.crop_bottom
    tiled = model.is_tiled(source.shape, crop_bottom=bar, nm_per_pixel=sides)
    results.begin()
    png, tif, labels_file, overlay_file = image_files(name)
    counts: list[np.ndarray] = []
    with ParticleMeasure(source.shape, options.split, bar, voted=options.votes is not None) as measure:
        grey, disagreement = Thinned(measure.step), Thinned(measure.step)
        bands = _predicted(model, source, options.votes, looked, counts)
        masks = _measured(bands, source, measure, (grey, disagreement), source.shape[0] - bar)
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
    overlay = particle_overlay(grey.whole(), labels, cut, nm_per_pixel=sides[1] * measure.step if sides else None)
    with results.file(overlay_file) as target:
        drawing.save(overlay, target)
    if counts:
        with results.file(doubt_file(name)) as target:
            drawing.save(_as_grey(disagreement.whole()), target)
    return SegmentedImage(
        path=path,
        mask=written,
        table=frame,
        shape=source.shape,
        coverage=measure.coverage,
        tiled=tiled,
        frame=looked,
        overlay=overlay,
        notes=[*looked.notes, *_range_note(model, source, path, bar)],
        doubt=doubt_of(np.sum(counts, axis=0)) if counts else None,
    )


def _as_grey(disagreement: np.ndarray) -> np.ndarray:
    """uint8: 0 where all seeds say the same, 255 where half of them are sure of the opposite."""
    return np.rint(disagreement * (255 / MOST_DISAGREEMENT)).astype(np.uint8)


def _range_note(model: Model, source: RowSource, path: Path, bar: int) -> list[Note]:
    # A large image of 32 bits or more would be read twice more, which takes longer than the line is worth.
    if not isinstance(source, ArraySource) and source.dtype.itemsize > 2:
        return []
    kept = ArraySource(source.array[: source.shape[0] - bar]) if isinstance(source, ArraySource) else source
    return range_note(kept.bands, path, model.stretch, "clip them, or train a model with data.stretch=percentile")


def _predicted(
    model: Model, source: RowSource, votes: SeedVotes | None, frame: PictureFrame, counts: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Bands of the probability and, where seeds vote, of their disagreement; their `Vote.counts` go into `counts`."""
    if votes is None:
        for probability in model.predict_stream(source, crop_bottom=frame.crop_bottom, nm_per_pixel=frame.sides):
            yield (probability,)
        return
    for vote in votes.on_stream(source, crop_bottom=frame.crop_bottom, nm_per_pixel=frame.sides):
        counts.append(vote.counts)
        yield vote.probability, vote.disagreement


def _measured(
    bands: Iterator[tuple[np.ndarray, ...]],
    source: RowSource,
    measure: ParticleMeasure,
    pictures: tuple[Thinned, Thinned],
    kept: int,
) -> Iterator[np.ndarray]:
    """Bands of the mask of an image, of which the first `kept` rows are measured as they pass.

    `pictures` get the image and the disagreement.
    """
    reader, row = RowReader(source.bands()), 0
    for probability, *disagreement in bands:
        grey, mask = reader.take(row, row + len(probability)), probability > 0.5
        looked = slice(max(kept - row, 0))
        if row < kept:
            measure.add(mask[looked], *(values[looked] for values in (grey, probability, *disagreement)))
        for picture, band in zip(pictures, (grey, *disagreement), strict=False):
            picture.add(band)
        row += len(mask)
        yield mask
