"""Masks, label images, overlays and particle tables of new images, of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.input_pictures import find_pictures, make_folder, result_names
from sage_ray.apply.loaded_model import load_for_use
from sage_ray.apply.particle_measure import MIN_PARTICLE_PIXELS, ParticleMeasure, Thinned
from sage_ray.data.images import BadFile, open_image
from sage_ray.data.notes import Note, note_lines, range_note
from sage_ray.data.shown import refuse_pages
from sage_ray.files import write_json
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_columns import described_columns
from sage_ray.imaging.particle_overlay import particle_overlay
from sage_ray.imaging.particles import Scale, pixel_sides
from sage_ray.imaging.rasters import open_rows, write_mask
from sage_ray.imaging.splitting import NECK, SLACK_PIXELS, check_split
from sage_ray.imaging.tiles import ArraySource, RowReader, RowSource
from sage_ray.record.home import Home
from sage_ray.record.provenance import now

DEFAULT_SPLIT = "watershed"
"""Chosen on EMPS: benchmarks/results/instances.md."""
SHEET_IMAGES = 12
FILES = {
    "masks": "masks/",
    "labels": "labels/",
    "overlays": "overlays/",
    "particles": "particles.csv",
    "columns": "particles.json",
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
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    home: Home,
    nm_per_pixel: Scale = None,
    split: str = DEFAULT_SPLIT,
) -> Prediction:
    """Segment images and measure their particles.

    Writes under `out`: masks/NAME.png (0 and 255; TIFF for an image over 64 million pixels), labels/NAME.tif (the
    number of each pixel's particle), overlays/NAME.png, particles.csv (one row per particle of all images),
    particles.json (what its columns mean), images.csv (one row per image), overview.png, prediction.json.

    Args:
        model: run id, folder or `models:/` URI.
        images: a folder (or data set with images/), or one file.
        out: made if missing; files of equal names are replaced.
        home: where models are looked up.
        nm_per_pixel: side of a pixel in nanometres, or its (height, width), for columns in nm and a scale bar.
        split: `watershed` tells particles that touch apart, `none` takes each connected region for one; same masks.

    Raises:
        UserError: no such model, images or way to split, an unreadable image, or no positive size of a pixel.
    """
    sides = pixel_sides(nm_per_pixel)
    check_split(split)
    ref, loaded = load_for_use(model, home)
    paths = find_pictures(images, "images", ("images",))
    _check_headers(paths)
    folder = _make_folders(Path(out).expanduser())
    particles: list[pd.DataFrame] = []
    rows: list[dict[str, Any]] = []
    notes: list[Note] = []
    shown: list[tuple[np.ndarray, str]] = []
    for path, name in zip(paths, result_names(paths), strict=True):
        done = _segment(loaded, path, folder, name, sides, split)
        particles.append(done.table.assign(image=path.name))
        rows.append(_image_row(path, done, folder))
        notes += done.notes
        drawing.save(done.overlay, folder / "overlays" / f"{name}.png")
        if len(shown) < SHEET_IMAGES:
            shown.append((done.overlay, f"{path.name}: {len(done.table)}"))
    table, summary = pd.concat(particles, ignore_index=True), pd.DataFrame(rows)
    _write_tables(folder, table, summary, split)
    sheet = drawing.contact_sheet(*map(list, zip(*shown, strict=True)), title="particles found")
    drawing.save(sheet, folder / FILES["overview"])
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
    _write_facts(result, folder, images, nm_per_pixel, split, loaded)
    return result


def _make_folders(out: Path) -> Path:
    folder = make_folder(out)
    for name in ("masks", "labels", "overlays"):
        make_folder(folder / name)
    return folder


def _check_headers(paths: list[Path]) -> None:
    # All files first: a bad one among hundreds should not be found after an hour.
    for path in paths:
        try:
            refuse_pages(open_image(path))
        except BadFile as bad:
            raise bad.problem.error() from None


def _segment(
    model: Model, path: Path, folder: Path, name: str, sides: tuple[float, float] | None, split: str
) -> _Segmented:
    source = open_rows(path)
    target = folder / "masks" / name
    with ParticleMeasure(source.shape, split) as measure:
        if isinstance(source, ArraySource):
            probability, mask = model.predict_mask(source.array)
            for row in range(0, len(mask), source.band_rows):
                band = slice(row, row + source.band_rows)
                measure.add(mask[band], source.array[band], probability[band])
            mask_path, tiled = drawing.save(mask, target.with_name(f"{name}.png")), model.is_tiled(source.shape)
            small = np.asarray(source.array[:: measure.step, :: measure.step])
        else:
            mask_path, tiled = target.with_name(f"{name}.tif"), True
            thinned = Thinned(measure.step)
            write_mask(mask_path, source.shape, _measured(model, source, measure, thinned))
            small = thinned.whole()
        other = target.with_name(f"{name}{'.png' if mask_path.suffix == '.tif' else '.tif'}")
        other.unlink(missing_ok=True)
        table, labels = measure.finish(folder / "labels" / f"{name}.tif", sides)
    frame = table.frame
    cut = frame.loc[frame["touches_border"].astype(bool), "label"].tolist()
    return _Segmented(
        mask_path=mask_path,
        table=frame,
        shape=source.shape,
        coverage=measure.foreground / (source.shape[0] * source.shape[1]),
        tiled=tiled,
        overlay=particle_overlay(small, labels, cut, nm_per_pixel=sides[1] * measure.step if sides else None),
        notes=_range_note(model, source, path),
    )


def _range_note(model: Model, source: RowSource, path: Path) -> list[Note]:
    # A large image of 32 bits or more would be read twice more, which takes longer than the line is worth.
    if not isinstance(source, ArraySource) and source.dtype.itemsize > 2:
        return []
    bar = int(model.spec["preprocessing"]["crop_bottom"])
    kept = ArraySource(source.array[: source.shape[0] - bar]) if isinstance(source, ArraySource) else source
    return range_note(kept.bands, path, model.stretch, "clip them, or train a model with data.stretch=percentile")


def _measured(model: Model, source: RowSource, measure: ParticleMeasure, thinned: Thinned) -> Iterator[np.ndarray]:
    """Bands of the mask of an image that is not held whole, measured as they pass."""
    reader, row = RowReader(source), 0
    for probability in model.predict_stream(source):
        grey, mask = reader.take(row, row + len(probability)), probability > 0.5
        measure.add(mask, grey, probability)
        thinned.add(grey)
        row += len(mask)
        yield mask


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


def _write_tables(folder: Path, particles: pd.DataFrame, images: pd.DataFrame, split: str) -> None:
    """The tables of particles and of images, and what the columns of the former mean."""
    columns = ["image", *(column for column in particles.columns if column != "image")]
    particles[columns].to_csv(folder / FILES["particles"], index=False, float_format="%.6g")
    images.to_csv(folder / FILES["images"], index=False, float_format="%.6g")
    how: dict[str, Any] = {"method": split, "min_particle_pixels": MIN_PARTICLE_PIXELS}
    if split == "watershed":
        how |= {"neck": NECK, "slack_pixels": SLACK_PIXELS}
    described = {"format_version": 1, "split": how, "columns": described_columns(columns)}
    write_json(folder / FILES["columns"], described)


def _write_facts(
    result: Prediction, folder: Path, images: str | Path, nm_per_pixel: Scale, split: str, model: Model
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
            "split": split,
            "threshold": 0.5,
            "crop_bottom": model.spec["preprocessing"]["crop_bottom"],
            "training_size": list(model.image_size),
            "tiled": result.tiled,
            "made": now(),
        },
    )
