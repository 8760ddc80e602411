"""Masks, label images, overlays and particle tables of new images, of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.input_pictures import find_images, result_names
from sage_ray.apply.loaded_model import load_for_use
from sage_ray.apply.particle_exports import parse_exports
from sage_ray.apply.particle_measure import MIN_PARTICLE_PIXELS
from sage_ray.apply.particle_products import (
    MeasuredImage,
    export_files,
    export_folders,
    export_particles,
    page_files,
    write_pages,
)
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.apply.segmented_image import SegmentedImage, SegmentOptions, image_files, segment_image
from sage_ray.data.notes import Note, note_lines
from sage_ray.errors import CannotWrite, UserError
from sage_ray.files import write_json
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_columns import described_columns
from sage_ray.imaging.particles import Scale, pixel_sides
from sage_ray.imaging.splitting import NECK, SLACK_PIXELS, check_split
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef
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
class FailedImage:
    """An image that could not be segmented, and why, as one line."""

    image: str
    error: str


class NothingSegmented(UserError):
    """None of the images could be segmented; `failed` names each."""

    def __init__(self, what: str, where: object, mend: str, failed: tuple[FailedImage, ...] = ()) -> None:
        super().__init__(what, where, mend)
        self.failed = failed

    def __reduce__(self) -> tuple[type[NothingSegmented], tuple[Any, ...]]:
        return type(self), (self.what, self.where, self.mend, self.failed)


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote."""

    model: dict[str, Any]
    out: Path
    images: int
    """Images that were segmented."""
    particles: int
    tiled: int
    """Images that were cut into tiles."""
    coverage: float
    """Share of foreground, mean over images."""
    files: dict[str, str]
    """What lies where in `out`."""
    failed: tuple[FailedImage, ...] = ()
    """Images that could not be segmented: they are in no table."""
    notes: tuple[str, ...] = ()
    """What may make a result worse than it could be, one line for each kind, and the files not looked at."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Unit, numbers and percentiles of all equivalent diameters together, as `pooled` in sizes.json."""
    passed_over: str = ""
    """Files in and below the folder of images that were not looked at, by kind; "" if there are none."""


@dataclass
class _Gathered:
    """What is gathered over the images of a call."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    shown: list[tuple[np.ndarray, str]] = field(default_factory=list)
    measured: list[MeasuredImage] = field(default_factory=list)
    failed: list[tuple[Path, UserError]] = field(default_factory=list)

    def add(self, done: SegmentedImage, name: str) -> None:
        """Take in a segmented image and the name of its results."""
        self.measured.append(MeasuredImage(name, done.shape, image_files(name)[2], done.field, done.table))
        self.tables.append(done.table.assign(image=done.path.name))
        self.rows.append(done.row())
        self.notes += done.notes
        if len(self.shown) < SHEET_IMAGES:
            self.shown.append((done.overlay, f"{done.path.name}: {len(done.table)}"))


def predict(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    home: Home,
    nm_per_pixel: Scale = None,
    split: str = DEFAULT_SPLIT,
    export: str | Sequence[str] = (),
    pages: bool = True,
) -> Prediction:
    """Segment images and measure their particles.

    Writes under `out`: masks/NAME.png (0 and 255; TIFF for an image over 64 million pixels), labels/NAME.tif (the
    number of each pixel's particle), overlays/NAME.png, particles.csv (one row per particle of all images),
    particles.json (what its columns mean), images.csv (one row per image), overview.png, sizes (size distribution) and
    order (spatial order) as .pdf, .svg, .png and .json, sizes.csv, prediction.json. docs/particles.md explains them.

    An image that cannot be segmented does not end the others: it is listed in `failed`.

    Args:
        model: run id, folder or `models:/` URI.
        images: a folder (or data set with images/), or one file.
        out: made if missing; what an earlier call wrote there is replaced, and nothing else.
        home: where models are looked up.
        nm_per_pixel: side of a pixel in nanometres, or its (height, width), for columns in nm and a scale bar.
        split: `watershed` tells particles that touch apart, `none` takes each connected region for one; same masks.
        export: formats for other programs, names or a text with commas: `imagej` for rois/NAME.zip, `coco` for
            coco.json.
        pages: whether sizes and order are drawn too, which takes a second or two.

    Raises:
        NothingSegmented: no image could be segmented.
        CannotWrite: a full disk, or no permission.
        UserError: no such model, images, way to split or format of export, no positive size of a pixel, or a result
            would replace an image or a file that `predict` did not write.
    """
    options = SegmentOptions(check_split(split), pixel_sides(nm_per_pixel))
    formats = parse_exports(export)
    ref, loaded = load_for_use(model, home)
    found = find_images(images)
    names = result_names(found.paths)
    results = ResultFolder(Path(out).expanduser(), _planned_files(names, formats), found.paths)
    batch = _segment_all(loaded, found.paths, names, results, options)
    sizes = _write_tables(results, batch, split, formats, pages) if batch.rows else {}
    places = FILES | page_files(pages) | export_folders(formats)
    result = _prediction(ref, results.path, batch, found.passed_over, places, sizes)
    if results.begun:
        results.finish(_facts(result, images, nm_per_pixel, split, loaded))
    if not batch.rows:
        raise _nothing_segmented(images, batch.failed[0][1], result.failed)
    return result


def _prediction(
    ref: ModelRef, out: Path, batch: _Gathered, passed_over: str, places: dict[str, str], sizes: dict[str, Any]
) -> Prediction:
    return Prediction(
        model=ref.identity(),
        out=out,
        images=len(batch.rows),
        particles=sum(map(len, batch.tables)),
        tiled=sum(row["tiled"] for row in batch.rows),
        coverage=float(np.mean([row["coverage"] for row in batch.rows])) if batch.rows else 0.0,
        files=places,
        failed=tuple(FailedImage(path.name, str(error)) for path, error in batch.failed),
        notes=(*note_lines(batch.notes), *([f"note: {passed_over}"] if passed_over else [])),
        sizes=sizes,
        passed_over=passed_over,
    )


def _planned_files(names: Sequence[str], formats: Sequence[str]) -> list[str]:
    images = [file for name in names for file in image_files(name)]
    tables = [file for file in FILES.values() if not file.endswith("/")]
    return [*images, *tables, *page_files(True).values(), *export_files(names, formats)]


def _segment_all(
    model: Model, paths: Sequence[Path], names: Sequence[str], results: ResultFolder, options: SegmentOptions
) -> _Gathered:
    batch = _Gathered()
    for path, name in zip(paths, names, strict=True):
        try:
            batch.add(segment_image(model, path, name, results, options), name)
        except CannotWrite:
            raise  # the disk's fault, not the image's: the next one would fare no better
        except UserError as error:
            results.drop(image_files(name))
            batch.failed.append((path, _naming(path, error)))
    return batch


def _naming(path: Path, error: UserError) -> UserError:
    """The error, with the file named in it; an image to segment has no mask as a partner."""
    where = error.where if path.name in str(error) else f"{path} ({error.where})"
    return UserError(error.what, where, error.mend.replace(" with its partner", ""))


def _nothing_segmented(images: str | Path, first: UserError, failed: tuple[FailedImage, ...]) -> NothingSegmented:
    if len(failed) == 1:
        return NothingSegmented(first.what, first.where, first.mend, failed)
    mend = "each of them is named with what is wrong"
    return NothingSegmented(f"none of {len(failed)} images could be segmented", images, mend, failed)


def _write_tables(
    results: ResultFolder, batch: _Gathered, split: str, formats: Sequence[str], pages: bool
) -> dict[str, Any]:
    """Tables of particles and of images, what the columns of the former mean, pages, exports, a sheet of pictures.

    Returns:
        the pooled sizes in short.
    """
    particles, sizes = write_pages(results, pd.concat(batch.tables, ignore_index=True), batch.measured, draw=pages)
    export_particles(results, batch.measured, formats)
    columns = ["image", *(column for column in particles.columns if column != "image")]
    with results.file(FILES["particles"]) as path:
        particles[columns].to_csv(path, index=False, float_format="%.6g")
    with results.file(FILES["images"]) as path:
        pd.DataFrame(batch.rows).to_csv(path, index=False, float_format="%.6g")
    how: dict[str, Any] = {"method": split, "min_particle_pixels": MIN_PARTICLE_PIXELS}
    if split == "watershed":
        how |= {"neck": NECK, "slack_pixels": SLACK_PIXELS}
    with results.file(FILES["columns"]) as path:
        write_json(path, {"format_version": 1, "split": how, "columns": described_columns(columns)})
    sheet = drawing.contact_sheet(*map(list, zip(*batch.shown, strict=True)), title="particles found")
    with results.file(FILES["overview"]) as path:
        drawing.save(sheet, path)
    return sizes


def _facts(result: Prediction, images: str | Path, nm_per_pixel: Scale, split: str, model: Model) -> dict[str, Any]:
    """What prediction.json says, beside the list of files."""
    return {
        "model": result.model,
        "images": str(Path(images).expanduser().absolute()),
        "number_of_images": result.images,
        "failed": [{"image": one.image, "error": one.error} for one in result.failed],
        "passed_over": result.passed_over,
        "particles": result.particles,
        "min_particle_pixels": MIN_PARTICLE_PIXELS,
        "nm_per_pixel": nm_per_pixel,
        "split": split,
        "threshold": 0.5,
        "crop_bottom": model.spec["preprocessing"]["crop_bottom"],
        "training_size": list(model.image_size),
        "tiled": result.tiled,
        "made": now(),
    }
