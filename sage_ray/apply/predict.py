"""Masks, label images, overlays and particle tables of new images, of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.input_pictures import find_images, result_names
from sage_ray.apply.loaded_model import load_for_use, load_votes_for_use
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
from sage_ray.apply.picture_frame import (
    AskedCrop,
    AskedScale,
    PictureFrame,
    checked_scale,
    image_columns,
    scale_facts,
    scale_lines,
)
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.apply.segmented_image import SegmentedImage, SegmentOptions, image_files, segment_image
from sage_ray.data.notes import Note, note_lines
from sage_ray.errors import CannotWrite, UserError
from sage_ray.files import write_json
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_columns import described_columns
from sage_ray.imaging.seed_votes import DOUBT, RULE, SeedVotes
from sage_ray.imaging.splitting import NECK, SLACK_PIXELS, check_split
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.provenance import now

DEFAULT_SPLIT = "watershed"
"""Chosen on EMPS: benchmarks/results/instances.md."""
ALL_SEEDS = "all"
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
DOUBT_MAPS = {"doubt": "doubt/"}
"""What it writes beside these where the seeds of a model vote."""
MOST_DOUBTFUL = 3
"""Images that are named as the most doubtful ones."""


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be segmented, and why, as one line."""

    image: str
    error: str


@dataclass(frozen=True)
class DoubtfulImage:
    """An image, and how much its mask depends on the seed (`imaging.seed_votes.doubt_of`)."""

    image: str
    doubt: float


class NothingSegmented(UserError):
    """None of the images could be segmented; `failed` names each."""

    def __init__(self, what: str, where: object, mend: str, failed: tuple[FailedImage, ...] = ()) -> None:
        super().__init__(what, where, mend)
        self.failed = failed

    def __reduce__(self) -> tuple[type[NothingSegmented], tuple[Any, ...]]:
        return type(self), (self.what, self.where, self.mend, self.failed)


@dataclass(frozen=True)
class Prediction(NotebookView):
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
    seeds: tuple[int, ...] = ()
    """Seeds that voted, the registered one first; none where the registered seed alone was used."""
    doubtful: tuple[DoubtfulImage, ...] = ()
    """Where seeds voted: all images, by falling doubt."""
    passed_over: str = ""
    """Files in and below the folder of images that were not looked at, by kind; "" if there are none."""

    def frame(self) -> pd.DataFrame:
        """One row per image, as images.csv has it: particles, coverage, scale, and where seeds voted its doubt."""
        return pd.read_csv(self.out / FILES["images"])

    def particles_frame(self) -> pd.DataFrame:
        """One row per particle of all images, as particles.csv has it; particles.json says what the columns mean."""
        return pd.read_csv(self.out / FILES["particles"])

    def headline(self) -> str:
        """How many particles were found in how many images, and where the results lie."""
        return f"{self.particles} particles in {self.images} images, written to {self.out}"

    def remarks(self) -> list[str]:
        """The size distribution, what to keep in mind, and the images that could not be segmented."""
        values, unit = self.sizes.get("values", {}), self.sizes.get("unit", "")
        told = [f"{name.upper()} {values[name]['value']:.4g}" for name in ("d10", "d50", "d90") if name in values]
        sizes = (
            [f"Diameters of {self.sizes['particles']} whole particles in {unit}: {', '.join(told)}."] if told else []
        )
        return [*sizes, *self.notes, *(f"not segmented: {one.error}" for one in self.failed)]


@dataclass
class _Gathered:
    """What is gathered over the images of a call."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    shown: list[tuple[float, np.ndarray, str]] = field(default_factory=list)
    frames: list[tuple[Path, PictureFrame]] = field(default_factory=list)
    measured: list[MeasuredImage] = field(default_factory=list)
    failed: list[tuple[Path, UserError]] = field(default_factory=list)

    def add(self, done: SegmentedImage, name: str) -> None:
        """Take in a segmented image and the name of its results."""
        self.measured.append(MeasuredImage(name, done.shape, image_files(name)[2], done.field, done.table))
        self.frames.append((done.path, done.frame))
        self.tables.append(done.table.assign(image=done.path.name))
        self.rows.append(done.row())
        self.notes += done.notes
        told = "" if done.doubt is None else f", doubt {done.doubt:.2f}"
        self.shown.append((done.doubt or 0.0, done.overlay, f"{done.path.name}: {len(done.table)}{told}"))
        # The most doubtful first; where nobody votes the order of the images stays.
        self.shown = sorted(self.shown, key=lambda shown: -shown[0])[:SHEET_IMAGES]

    def image_table(self) -> pd.DataFrame:
        """One row per image; where seeds voted with `doubt_rank`, 1 for the most doubtful, equal ones the same."""
        table = pd.DataFrame(image_columns(self.rows))
        if "doubt" in table:
            table["doubt_rank"] = table["doubt"].rank(method="min", ascending=False).astype(int)
        return table

    def doubtful(self) -> tuple[DoubtfulImage, ...]:
        """Images by falling doubt; none where nobody voted."""
        voted = [DoubtfulImage(row["image"], row["doubt"]) for row in self.rows if "doubt" in row]
        return tuple(sorted(voted, key=lambda one: -one.doubt))


def predict(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    home: Home,
    nm_per_pixel: AskedScale = None,
    crop_bottom: AskedCrop = None,
    split: str = DEFAULT_SPLIT,
    export: str | Sequence[str] = (),
    pages: bool = True,
    seeds: str | None = None,
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
        nm_per_pixel: side of a pixel of all images in nanometres, or its (height, width), for columns in nm and a
            scale bar; None takes the size that each file says, and "file" refuses an image that says none.
        crop_bottom: rows of an information bar at the bottom of all images; "auto" looks for the bar of each; None
            takes as many as training did.
        split: `watershed` tells particles that touch apart, `none` takes each connected region for one; same masks.
        export: for other programs, names or a text with commas: `imagej` for rois/NAME.zip, `coco` for coco.json.
        pages: whether sizes and order are drawn too, which takes a second or two.
        seeds: None uses the registered seed of the model; `all` lets all its seeds vote (docs/particles.md).

    Raises:
        NothingSegmented: no image could be segmented.
        CannotWrite: a full disk, or no permission.
        UserError: no such model, images, seeds, way to split or format of export, no positive size of a pixel, or a
            result would replace an image or a file that `predict` did not write.
    """
    formats = parse_exports(export)
    check_split(split)
    scale = checked_scale(nm_per_pixel)
    ref, loaded, votes = _loaded(model, home, seeds)
    options = SegmentOptions(split, scale, crop_bottom, votes)
    found = find_images(images)
    names = result_names(found.paths)
    planned = _planned_files(names, formats, voted=votes is not None)
    results = ResultFolder(Path(out).expanduser(), planned, found.paths)
    batch = _segment_all(loaded, found.paths, names, results, options)
    sizes = _write_tables(results, batch, split, formats, pages) if batch.rows else {}
    places = FILES | page_files(pages) | export_folders(formats)
    result = _prediction(ref, results.path, batch, found.passed_over, places, sizes, votes)
    if results.begun:
        results.finish(_facts(result, images, options, batch, loaded))
    if not batch.rows:
        raise _nothing_segmented(images, batch.failed[0][1], result.failed)
    return result


def _planned_files(names: Sequence[str], formats: Sequence[str], *, voted: bool) -> list[str]:
    images = [file for name in names for file in image_files(name, voted=voted)]
    tables = [file for file in FILES.values() if not file.endswith("/")]
    return [*images, *tables, *page_files(True).values(), *export_files(names, formats)]


def _loaded(model: str | Path, home: Home, seeds: str | None) -> tuple[ModelRef, Model, SeedVotes | None]:
    if seeds not in (None, ALL_SEEDS):
        mend = f"write {ALL_SEEDS}, or leave it out for the registered seed"
        raise UserError("no such choice of seeds", f"--seeds {seeds}", mend)
    if seeds is None:
        ref, loaded = load_for_use(model, home)
        loaded.segmenting()  # before anything is read or written
        return ref, loaded, None
    ref, votes = load_votes_for_use(model, home)
    return ref, votes.registered, votes


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
            results.drop(image_files(name, voted=options.votes is not None))
            batch.failed.append((path, _naming(path, error)))
    return batch


def _prediction(
    ref: ModelRef,
    out: Path,
    batch: _Gathered,
    passed_over: str,
    places: dict[str, str],
    sizes: dict[str, Any],
    votes: SeedVotes | None,
) -> Prediction:
    return Prediction(
        model=ref.identity(),
        out=out,
        images=len(batch.rows),
        particles=sum(map(len, batch.tables)),
        tiled=sum(row["tiled"] for row in batch.rows),
        coverage=float(np.mean([row["coverage"] for row in batch.rows])) if batch.rows else 0.0,
        files=places | (DOUBT_MAPS if votes else {}),
        failed=tuple(FailedImage(path.name, str(error)) for path, error in batch.failed),
        notes=(
            *scale_lines(batch.frames),
            *note_lines(batch.notes),
            *([f"note: {passed_over}"] if passed_over else []),
        ),
        sizes=sizes,
        seeds=votes.seeds if votes else (),
        doubtful=batch.doubtful(),
        passed_over=passed_over,
    )


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
    # Where images without a scale come first, the columns in nm must not end up behind all others.
    widest = max(batch.tables, key=lambda table: len(table.columns))
    known = ["image", *(column for column in widest.columns if column != "image")]
    columns = [*known, *(column for column in particles.columns if column not in known)]
    with results.file(FILES["particles"]) as path:
        particles[columns].to_csv(path, index=False, float_format="%.6g")
    with results.file(FILES["images"]) as path:
        batch.image_table().to_csv(path, index=False, float_format="%.6g")
    how: dict[str, Any] = {"method": split, "min_particle_pixels": MIN_PARTICLE_PIXELS}
    if split == "watershed":
        how |= {"neck": NECK, "slack_pixels": SLACK_PIXELS}
    with results.file(FILES["columns"]) as path:
        write_json(path, {"format_version": 1, "split": how, "columns": described_columns(columns)})
    _, pictures, captions = zip(*batch.shown, strict=True)
    title = "particles found" + (", the most doubtful images first" if batch.doubtful() else "")
    sheet = drawing.contact_sheet(pictures, captions, title=title)
    with results.file(FILES["overview"]) as path:
        drawing.save(sheet, path)
    return sizes


def _facts(
    result: Prediction, images: str | Path, options: SegmentOptions, batch: _Gathered, model: Model
) -> dict[str, Any]:
    """What prediction.json says, beside the list of files."""
    vote = {"seeds": result.seeds, "registered_seed": next(iter(result.seeds), None), "rule": RULE, "doubt": DOUBT}
    return {
        "model": result.model,
        "images": str(Path(images).expanduser().absolute()),
        "number_of_images": result.images,
        "failed": [{"image": one.image, "error": one.error} for one in result.failed],
        "passed_over": result.passed_over,
        "particles": result.particles,
        "min_particle_pixels": MIN_PARTICLE_PIXELS,
        "nm_per_pixel": options.nm_per_pixel,
        "scales": scale_facts(frame for _, frame in batch.frames),
        "split": options.split,
        "vote": vote if result.seeds else None,
        "threshold": 0.5,
        "crop_bottom": model.spec["preprocessing"]["crop_bottom"]
        if options.crop_bottom is None
        else options.crop_bottom,
        "training_size": list(model.image_size),
        "tiled": result.tiled,
        "made": now(),
    }
