"""Masks, overlays and particle tables of new images, of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.input_pictures import find_pictures, make_folder, result_names
from sage_ray.apply.loaded_model import load_for_use
from sage_ray.data.images import BadFile, open_image
from sage_ray.data.notes import Note, note_lines, range_note
from sage_ray.data.shown import refuse_pages
from sage_ray.errors import UserError
from sage_ray.files import write_json
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particles import ParticleCounter
from sage_ray.imaging.rasters import open_rows, write_mask
from sage_ray.imaging.tiles import ArraySource, RowSource
from sage_ray.record.home import Home
from sage_ray.record.provenance import now

MIN_PARTICLE_PIXELS = 15
"""Smaller components are left out of the tables, as object scores leave them out; the masks keep them."""
PREVIEW_SIDE = 2048
"""Longest side of an overlay, in pixels; larger images are shown by every n-th pixel."""
SHEET_IMAGES = 12
FILES = {
    "masks": "masks/",
    "overlays": "overlays/",
    "particles": "particles.csv",
    "images": "images.csv",
    "overview": "overview.png",
}
"""What lies where in the folder that `predict` writes."""


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote."""

    model: dict[str, Any]
    out: Path
    images: int
    particles: int
    tiled: int
    """Images that were cut into tiles."""
    coverage: float
    """Share of foreground, mean over images."""
    files: dict[str, str]
    """What lies where in `out`."""
    notes: tuple[str, ...] = ()
    """What may make a result worse than it could be, one line for each kind."""


@dataclass(frozen=True)
class _Segmented:
    mask_path: Path
    table: pd.DataFrame
    shape: tuple[int, int]
    coverage: float
    tiled: bool
    overlay: np.ndarray
    notes: list[Note]


def predict(
    model: str | Path, images: str | Path, out: str | Path, *, home: Home, nm_per_pixel: float | None = None
) -> Prediction:
    """Segment images and measure their particles.

    Writes under `out`: masks/NAME.png (0 and 255; TIFF for an image over 64 million pixels), overlays/NAME.png,
    particles.csv (one row per particle of all images), images.csv (one row per image), overview.png, prediction.json.

    Args:
        model: run id, folder or `models:/` URI.
        images: a folder (or data set with images/), or one file.
        out: made if missing; files of equal names are replaced.
        home: where models are looked up.
        nm_per_pixel: side of a pixel in nanometres, for columns in nm.

    Raises:
        UserError: no such model or images, an unreadable image, a size of a pixel that is no positive number.
    """
    if nm_per_pixel is not None and not (math.isfinite(nm_per_pixel) and nm_per_pixel > 0):
        raise UserError("no size of a pixel", f"nm_per_pixel={nm_per_pixel}", "give nanometres above 0, such as 1.5")
    ref, loaded = load_for_use(model, home)
    paths = find_pictures(images, "images", ("images",))
    _check_headers(paths)
    folder = make_folder(Path(out).expanduser())
    for name in ("masks", "overlays"):
        make_folder(folder / name)
    particles: list[pd.DataFrame] = []
    rows: list[dict[str, Any]] = []
    notes: list[Note] = []
    shown: list[tuple[np.ndarray, str]] = []
    for path, name in zip(paths, result_names(paths), strict=True):
        done = _segment(loaded, path, folder / "masks" / name, nm_per_pixel)
        particles.append(done.table.assign(image=path.name))
        rows.append(_image_row(path, done, folder))
        notes += done.notes
        drawing.save(done.overlay, folder / "overlays" / f"{name}.png")
        if len(shown) < SHEET_IMAGES:
            shown.append((done.overlay, f"{path.name}: {len(done.table)}"))
    table, summary = pd.concat(particles, ignore_index=True), pd.DataFrame(rows)
    columns = ["image", *(column for column in table.columns if column != "image")]
    table[columns].to_csv(folder / "particles.csv", index=False, float_format="%.6g")
    summary.to_csv(folder / "images.csv", index=False, float_format="%.6g")
    sheet = drawing.contact_sheet(
        [overlay for overlay, _ in shown], [caption for _, caption in shown], title="particles found"
    )
    drawing.save(sheet, folder / "overview.png")
    result = Prediction(
        model=ref.identity(),
        out=folder,
        images=len(paths),
        particles=len(table),
        tiled=int(summary["tiled"].sum()),
        coverage=float(summary["coverage"].mean()),
        files=dict(FILES),
        notes=tuple(note_lines(notes)),
    )
    _write_facts(result, folder, images, nm_per_pixel, loaded)
    return result


def _check_headers(paths: list[Path]) -> None:
    # All files first: a bad one among hundreds should not be found after an hour.
    for path in paths:
        try:
            refuse_pages(open_image(path))
        except BadFile as bad:
            raise bad.problem.error() from None


def _segment(model: Model, path: Path, target: Path, nm_per_pixel: float | None) -> _Segmented:
    source = open_rows(path)
    whole = isinstance(source, ArraySource)
    step = max(math.ceil(max(source.shape) / PREVIEW_SIDE), 1)
    watch = _MaskMeasure(source.shape, step)
    if isinstance(source, ArraySource):
        _, mask = model.predict_mask(source.array)
        watch.add(mask)
        mask_path = drawing.save(mask, target.with_name(f"{target.name}.png"))
        tiled = model.is_tiled(source.shape)
        small = np.asarray(source.array[::step, ::step])
    else:
        mask_path, tiled = target.with_name(f"{target.name}.tif"), True
        write_mask(mask_path, source.shape, model.predict_stream(source), watch.add)
        small = np.concatenate(list(_every(source, step)))
    other = target.with_name(f"{target.name}{'.tif' if whole else '.png'}")
    other.unlink(missing_ok=True)
    return _Segmented(
        mask_path=mask_path,
        table=watch.counter.table(nm_per_pixel, MIN_PARTICLE_PIXELS),
        shape=source.shape,
        coverage=watch.foreground / (source.shape[0] * source.shape[1]),
        tiled=tiled,
        overlay=drawing.overlay(small, watch.preview()),
        notes=_range_note(model, source, path),
    )


def _range_note(model: Model, source: RowSource, path: Path) -> list[Note]:
    # A large image of 32 bits or more would be read twice more, which takes longer than the line is worth.
    if not isinstance(source, ArraySource) and source.dtype.itemsize > 2:
        return []
    bar = int(model.spec["preprocessing"]["crop_bottom"])
    kept = ArraySource(source.array[: source.shape[0] - bar]) if isinstance(source, ArraySource) else source
    return range_note(kept.bands, path, model.stretch, "clip them, or train a model with data.stretch=percentile")


class _MaskMeasure:
    """Measures a mask whose bands pass by, and keeps every `step`-th pixel of it."""

    def __init__(self, shape: tuple[int, int], step: int) -> None:
        self.counter = ParticleCounter(shape[1])
        self.foreground = 0
        self._step, self._row = step, 0
        self._kept: list[np.ndarray] = []

    def add(self, band: np.ndarray) -> None:
        self.counter.add(band)
        self.foreground += int(band.sum())
        self._kept.append(band[-self._row % self._step :: self._step, :: self._step].copy())
        self._row += len(band)

    def preview(self) -> np.ndarray:
        return np.concatenate(self._kept)


def _every(source: RowSource, step: int) -> Iterator[np.ndarray]:
    row = 0
    for band in source.bands():
        yield band[-row % step :: step, ::step].copy()
        row += len(band)


def _image_row(path: Path, done: _Segmented, folder: Path) -> dict[str, Any]:
    whole = done.table[~done.table["touches_border"].astype(bool)]
    return {
        "image": path.name,
        "rows": done.shape[0],
        "columns": done.shape[1],
        "tiled": done.tiled,
        "particles": len(done.table),
        "particles_inside": len(whole),
        "coverage": done.coverage,
        "median_equivalent_diameter_px": whole["equivalent_diameter_px"].median(),
        "mask": str(done.mask_path.relative_to(folder)),
    }


def _write_facts(
    result: Prediction, folder: Path, images: str | Path, nm_per_pixel: float | None, model: Model
) -> None:
    write_json(
        folder / "prediction.json",
        {
            "format_version": 1,
            "model": result.model,
            "images": str(Path(images).expanduser().absolute()),
            "number_of_images": result.images,
            "particles": result.particles,
            "min_particle_pixels": MIN_PARTICLE_PIXELS,
            "nm_per_pixel": nm_per_pixel,
            "threshold": 0.5,
            "crop_bottom": model.spec["preprocessing"]["crop_bottom"],
            "training_size": list(model.image_size),
            "tiled": result.tiled,
            "made": now(),
        },
    )
