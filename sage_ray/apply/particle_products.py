"""What `predict` makes of the particles of all its images: pages and numbers, and files for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sage_ray.apply.fields_of_view import FieldOfView
from sage_ray.apply.order_report import order_report, with_order, write_order
from sage_ray.apply.particle_exports import COCO, ROIS, ParticleExports
from sage_ray.apply.particle_pages import draw_order, draw_sizes
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.apply.size_distribution import pooled_sizes, size_report, write_sizes

_NUMBERS = ("sizes.json", "sizes.csv", "order.json")
_PAGES = tuple(f"{page}.{ending}" for page in ("sizes", "order") for ending in ("pdf", "svg", "png"))


@dataclass(frozen=True)
class MeasuredImage:
    """An image whose particles are known.

    Attributes:
        name: of its results.
        shape: (rows, columns).
        labels: path of its label image from the folder of results.
        field: what of it was looked at; its `image` is the name in tables.
        particles: its table.
    """

    name: str
    shape: tuple[int, int]
    labels: str
    field: FieldOfView
    particles: pd.DataFrame


def page_files(drawn: bool) -> dict[str, str]:
    """Files that `write_pages` writes, by key of `Prediction.files`."""
    return {name.replace(".", "_"): name for name in (*_NUMBERS, *(_PAGES if drawn else ()))}


def export_files(names: Iterable[str], formats: Sequence[str]) -> tuple[str, ...]:
    """Files that `export_particles` may write for images of these names, from the folder of results."""
    rois = [f"{ROIS}/{name}.zip" for name in names] if "imagej" in formats else []
    return (*rois, *([COCO] if "coco" in formats else []))


def export_folders(formats: Sequence[str]) -> dict[str, str]:
    """Where exports lie in the folder of results, by key of `Prediction.files`."""
    places = {"imagej": ("rois", f"{ROIS}/"), "coco": ("coco", COCO)}
    return dict(places[each] for each in formats)


def write_pages(
    results: ResultFolder, particles: pd.DataFrame, images: Sequence[MeasuredImage], *, draw: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write size distribution and spatial order of all particles.

    Args:
        results: where the files go.
        particles: the tables of all images, one below the other, with a column `image`.
        images: in the order of the reports.
        draw: whether the pages are drawn too, not their numbers alone.

    Returns:
        the table with the columns of `order_report.with_order`, and the pooled sizes in short.

    Raises:
        CannotWrite: a file cannot be written.
    """
    fields = [image.field for image in images]
    sizes, order = size_report(particles, fields), order_report(particles, fields)
    with ExitStack() as files:
        for name in page_files(draw).values():
            files.enter_context(results.file(name))
        write_sizes(sizes, results.path)
        write_order(order, results.path)
        if draw:
            draw_sizes(sizes, results.path)
            draw_order(order, results.path)
    return with_order(particles, order, fields), pooled_sizes(sizes)


def export_particles(results: ResultFolder, images: Sequence[MeasuredImage], formats: Sequence[str]) -> None:
    """Write the particles of all images in the formats of `particle_exports.EXPORTS`.

    Raises:
        CannotWrite: a file cannot be written.
    """
    with ExitStack() as files:
        for name in export_files((image.name for image in images), formats):
            files.enter_context(results.file(name))
        with ParticleExports(results.path, formats) as exports:
            for one in images:
                exports.add(one.field.image, one.name, one.shape, results.path / one.labels, one.particles)
