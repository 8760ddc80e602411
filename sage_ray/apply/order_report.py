"""Spatial order of the particles of some images: nearest neighbours, g(r), psi4 and psi6, pooled and by image.

A point is the centre of mass of a particle. The visible part of a particle that the frame cuts has another centre than
the particle, and particles whose centres lie outside have parts inside; so the frame of the points is narrower than
that of the image, on each side by half of the length (Feret) that 95 % of the particles have at most. Inside it nearly
all centres are those of whole particles. `statistics.spatial_order` has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.apply.fields_of_view import CommonUnit, FieldOfView, common_unit
from sage_ray.files import write_json
from sage_ray.statistics.particle_sizes import Estimate
from sage_ray.statistics.spatial_order import (
    FOLDS,
    RANDOM_PSI,
    LocalOrder,
    PairSums,
    distance_edges,
    local_order,
    pair_correlation,
    pair_sums,
    ratio_over_images,
)

MARGIN_SHARE = 0.95
MOST_MARGIN = 0.25
"""The margin takes at most this share of the shorter side of an image."""
_NEAR, _PSI = "nearest_neighbour", tuple(f"psi{fold}" for fold in FOLDS)


@dataclass(frozen=True)
class ImageOrder:
    """Points of one image, and what is known of them, in the unit of the report.

    Attributes:
        image: its name.
        frame: (height, width) of the frame of the points.
        points: (n, 2) from the first corner of the frame.
        order: of each point.
        rows: (n,) their index in the table of particles.
    """

    image: str
    frame: tuple[float, float]
    points: np.ndarray
    order: LocalOrder
    rows: np.ndarray

    @property
    def density(self) -> float:
        """Points per square unit."""
        return len(self.points) / (self.frame[0] * self.frame[1])


@dataclass(frozen=True)
class OrderReport:
    """Spatial order of all images together and of each.

    Attributes:
        unit: of lengths.
        by_image: one per image.
        edges: (K + 1,) distances between which g(r) is given; (0,) without two points in an image.
        correlation: (K,) g(r).
        half_width: (K,) half of the 95 % interval over images; None with one image.
        pooled: by name: nearest_neighbour, nearest_neighbour_ratio, psi4, psi6.
    """

    unit: CommonUnit
    by_image: tuple[ImageOrder, ...]
    edges: np.ndarray
    correlation: np.ndarray
    half_width: np.ndarray | None
    pooled: dict[str, Estimate]

    @property
    def points(self) -> int:
        """Particles whose centre lies in the frame of the points."""
        return sum(len(one.points) for one in self.by_image)

    def known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and weights (n,) of `nearest_neighbour`, `psi4` or `psi6` over all images, where known."""
        pairs = [(np.zeros(0), np.zeros(0))]
        for one in self.by_image:
            values, weights = _values(one.order, name)
            pairs.append((values[weights > 0], weights[weights > 0]))
        return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])

    def lines(self) -> list[str]:
        """What a reader has to know of this order."""
        lines = [f"distances are in pixels: {self.unit.why_pixels}"] if self.unit.why_pixels else []
        few = [name for name in (_NEAR, "psi6") if len(self.known(name)[0]) < 10]
        if few:
            known = ", ".join(f"{len(self.known(name)[0])} with a known {name.replace('_', ' ')}" for name in few)
            lines.append(f"{known}: too few particles away from the frame to speak of their order")
        return lines


def order_report(particles: pd.DataFrame, fields: Sequence[FieldOfView]) -> OrderReport:
    """Spatial order of particles.

    Args:
        particles: rows of particle tables with a column `image`; centroids and `feret_max_px` are used.
        fields: one per image, in the order of the report; images without particles too.
    """
    unit = common_unit(particles, fields)
    found = tuple(_of_image(particles, field, unit.pixel(field)) for field in fields)
    used = [one for one in found if len(one.points) > 1]
    pooled = {name: _pooled(found, name) for name in (_NEAR, *_PSI)}
    expected = np.array([_expected(one) for one in used])
    weights = np.array([one.order.nearest_weights.sum() for one in used])
    sums = np.array([_sum(one.order, _NEAR) for one in used])
    pooled["nearest_neighbour_ratio"] = ratio_over_images(sums, weights * expected) if used else Estimate(math.nan)
    if not used:
        return OrderReport(unit, found, np.zeros(0), np.zeros(0), None, pooled)
    number = sum(len(one.points) for one in used)
    spacing = math.sqrt(sum(one.frame[0] * one.frame[1] for one in used) / number)
    edges = distance_edges(spacing, number, 0.5 * min(min(one.frame) for one in used))
    pairs: list[PairSums] = [pair_sums(one.points, one.frame, edges) for one in used]
    correlation, half_width = pair_correlation(pairs)
    return OrderReport(unit, found, edges, correlation, half_width, pooled)


def with_order(particles: pd.DataFrame, report: OrderReport, fields: Sequence[FieldOfView]) -> pd.DataFrame:
    """The table with the columns nearest_neighbour_px (and _nm where it has nm columns), psi4 and psi6.

    They are empty where something outside the frame could change the value.

    Args:
        particles: as `order_report` got it, with the same index.
        report: of these particles.
        fields: as `order_report` got them.
    """
    in_nm = "equivalent_diameter_nm" in particles
    names = [f"{_NEAR}_px", *([f"{_NEAR}_nm"] if in_nm else []), *_PSI]
    columns = pd.DataFrame(math.nan, index=particles.index, columns=names)
    for one, field in zip(report.by_image, fields, strict=True):
        if not len(one.rows):
            continue
        for place, name in enumerate(_PSI):
            columns.loc[one.rows, name] = np.abs(one.order.psi[:, place])
        high, wide = field.sides or (1.0, 1.0)
        here = report.unit.pixel(field)
        for unit, pixel in (("px", (1.0, 1.0)), ("nm", (high, wide)))[: 2 if in_nm and field.sides else 1]:
            columns.loc[one.rows, f"{_NEAR}_{unit}"] = _nearest(one, here, pixel)
    return particles.assign(**{name: columns[name] for name in names})


def write_order(report: OrderReport, folder: Path) -> list[Path]:
    """Write order.json, and return its path."""
    path = folder / "order.json"
    unit = report.unit.name
    middles = (report.edges[1:] + report.edges[:-1]) / 2
    half = report.half_width
    correlation: dict[str, Any] = {
        f"r_{unit}": _finite(middles),
        "g": _finite(report.correlation),
        "low": None if half is None else _finite(report.correlation - half),
        "high": None if half is None else _finite(report.correlation + half),
    }
    near, near_weights = report.known(_NEAR)
    described = {
        "format_version": 1,
        "unit": unit,
        "why_pixels": report.unit.why_pixels,
        "points": "centres of mass of particles",
        "random_points": {"nearest_neighbour_ratio": 1, **{f"psi{fold}": RANDOM_PSI[fold] for fold in FOLDS}},
        "pooled": {
            "particles": report.points,
            "particles_with_nearest_neighbour": len(near),
            "particles_with_psi": len(report.known("psi6")[0]),
            "values": {name: _estimate(value) for name, value in report.pooled.items()},
            f"{_NEAR}_sd_{unit}": _finite([_deviation(near, near_weights)])[0],
        },
        "by_image": [_image_row(one, unit) for one in report.by_image],
        "pair_correlation": correlation,
        "notes": report.lines(),
    }
    write_json(path, described)
    return [path]


def _of_image(particles: pd.DataFrame, field: FieldOfView, pixel: tuple[float, float]) -> ImageOrder:
    mine = particles[particles["image"] == field.image] if len(particles) else particles
    margin, shape = 0.0, np.array([field.rows, field.columns], float)
    points = np.zeros((0, 2))
    if len(mine):
        length = float(np.quantile(mine["feret_max_px"].to_numpy(float), MARGIN_SHARE))
        margin = min(length / 2, MOST_MARGIN * float(shape.min()))
        corner = np.array([field.first_row, field.first_column])
        points = mine[["centroid_row", "centroid_column"]].to_numpy(float) + 0.5 - corner - margin
    inner = shape - 2 * margin
    inside = ((points >= 0) & (points <= inner)).all(axis=1)
    points = points[inside] * np.array(pixel)
    frame = (float(inner[0] * pixel[0]), float(inner[1] * pixel[1]))
    rows = mine.index.to_numpy()[inside] if len(mine) else np.zeros(0, np.int64)
    return ImageOrder(field.image, frame, points, local_order(points, frame), rows)


def _nearest(one: ImageOrder, here: tuple[float, float], pixel: tuple[float, float]) -> np.ndarray:
    """Distances of nearest neighbours with pixels of another size than those of the report."""
    factors = (pixel[0] / here[0], pixel[1] / here[1])
    if math.isclose(factors[0], factors[1]):
        return np.asarray(one.order.nearest * factors[0])
    frame = (one.frame[0] * factors[0], one.frame[1] * factors[1])
    return local_order(one.points * np.array(factors), frame).nearest


def _values(order: LocalOrder, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == _NEAR:
        return order.nearest, order.nearest_weights
    return np.abs(order.psi[:, _PSI.index(name)]), order.psi_weights


def _sum(order: LocalOrder, name: str) -> float:
    values, weights = _values(order, name)
    return float((values * weights)[weights > 0].sum())


def _pooled(images: Sequence[ImageOrder], name: str) -> Estimate:
    weights = np.array([_values(one.order, name)[1].sum() for one in images])
    if not (weights > 0).any():
        return Estimate(math.nan)
    return ratio_over_images(np.array([_sum(one.order, name) for one in images]), weights)


def _expected(one: ImageOrder) -> float:
    """Mean distance of the nearest neighbour of random points of this density."""
    return 0.5 / math.sqrt(one.density)


def _image_row(one: ImageOrder, unit: str) -> dict[str, Any]:
    means = {name: _pooled([one], name).value for name in (_NEAR, *_PSI)}
    whole = []
    for place in range(len(FOLDS)):
        weights = one.order.psi_weights
        known = weights > 0
        whole.append(abs(np.average(one.order.psi[known, place], weights=weights[known])) if known.any() else math.nan)
    ratio = means[_NEAR] / _expected(one) if len(one.points) else math.nan
    row = {f"{_NEAR}_{unit}": means[_NEAR], f"{_NEAR}_ratio": ratio, **{name: means[name] for name in _PSI}}
    row |= {f"{name}_of_the_whole": value for name, value in zip(_PSI, whole, strict=True)}
    return {
        "image": one.image,
        "particles": len(one.points),
        f"particles_per_{unit}2": one.density,
        **dict(zip(row, _finite(list(row.values())), strict=True)),
    }


def _deviation(values: np.ndarray, weights: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    mean = np.average(values, weights=weights)
    return math.sqrt(float(np.average((values - mean) ** 2, weights=weights)))


def _estimate(given: Estimate) -> dict[str, float | None]:
    value, low, high = (
        None if number is None else _finite([number])[0] for number in (given.value, given.low, given.high)
    )
    return {"value": value, "low": low, "high": high}


def _finite(values: np.ndarray | Sequence[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
