"""Spatial order of particles in a frame: nearest neighbours, the pair correlation g(r), and bond order psi4 and psi6.

A frame hides what lies outside it. One rule serves the values of single particles: a value is known if nothing outside
the frame can change it. The nearest neighbour of a particle is known if it is nearer than the frame; its Voronoi
neighbours are if all circles through it and two neighbours that are neighbours of one another lie in the frame (no
unseen particle is in such a circle, so that Delaunay's triangles stay). What has to lie in the frame has a bounding
box, and a large box is less often inside: each known value has the weight H W / ((H - h)(W - w)) of its box, as whole
particles have in `particle_sizes`. For nearest neighbours this is Hanisch's estimator. g(r) uses all pairs, each with
the weight of a pair at that shift: the translation correction of Ohser and Stoyan.

Neighbours in psi_k = |sum_j l_j exp(i k angle_j)| / sum_j l_j have the weight of the Voronoi edge l_j between. Without
it a perfect square lattice, whose diagonal neighbours share only a point of their cells, would have no definite psi4.

Source: Hanisch, Math. Operationsforsch. Statist. 15, 1984; Ohser and Stoyan, Biom. J. 23, 1981; Clark and Evans,
Ecology 35, 1954 (0.5 / sqrt(density) for random points); Nelson and Halperin, Phys. Rev. B 19, 1979, and Mickel,
Kapfer, Schroeder-Turk, Mecke, J. Chem. Phys. 138, 044501, 2013 (weights by edges) for psi.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import QhullError, Voronoi, cKDTree

from sage_ray.statistics.clusters import weights_df
from sage_ray.statistics.combined import t_quantile
from sage_ray.statistics.particle_sizes import LEVEL, Estimate

FOLDS = (4, 6)
RANDOM_PSI = {4: 0.424, 6: 0.430}
"""Mean psi of random (Poisson) points, simulated with 200,000 of them: what no order gives."""
# Pairs that are held at a time, and that are looked at in all.
_BLOCK_PAIRS = 2_000_000
MOST_PAIRS = 8_000_000


@dataclass(frozen=True)
class LocalOrder:
    """What is known of each of n points; NaN where something outside the frame could change it.

    Attributes:
        nearest: (n,) distance to the nearest other point.
        nearest_weights: (n,) its weight, 0 where it is not known.
        psi: (n, 2) complex, mean of exp(i k angle) over Voronoi neighbours for k in `FOLDS`; psi_k is its modulus.
        psi_weights: (n,) its weight, 0 where it is not known.
    """

    nearest: np.ndarray
    nearest_weights: np.ndarray
    psi: np.ndarray
    psi_weights: np.ndarray


@dataclass(frozen=True)
class PairSums:
    """Sums over the pairs of one frame, which frames of one kind add up.

    Attributes:
        edges: (K + 1,) distances between which pairs are counted, from 0.
        pairs: (K,) sum over ordered pairs of 1 / (area of the frame that both points can be in), per area of the ring:
            density^2 g(r), in 1 / length^4.
        squared_density: n (n - 1) / area^2.
        area: of the frame.
    """

    edges: np.ndarray
    pairs: np.ndarray
    squared_density: float
    area: float


def local_order(points: np.ndarray, frame: tuple[float, float]) -> LocalOrder:
    """Nearest neighbours and bond order of each point.

    Args:
        points: (n, 2) row and column from the frame's first corner, inside it, in a unit of length.
        frame: (height, width) in that unit.
    """
    number = len(points)
    nearest, near_weights = np.full(number, np.nan), np.zeros(number)
    if number > 1:
        distances = cKDTree(points).query(points, k=2)[0][:, 1]
        known = distances < _to_frame(points, frame)
        near_weights[known] = _box_weights(np.repeat(2 * distances[known, None], 2, axis=1), frame)
        nearest[known] = distances[known]
    psi, psi_weights = _bond_order(points, frame)
    return LocalOrder(nearest, near_weights, psi, psi_weights)


def pair_sums(points: np.ndarray, frame: tuple[float, float], edges: np.ndarray) -> PairSums:
    """Sums of which `pair_correlation` makes g(r).

    Args:
        points: (n, 2) as in `local_order`.
        frame: (height, width), both larger than the last of `edges`.
        edges: (K + 1,) ascending distances from 0.

    Raises:
        ValueError: a distance at which the frame holds no pair in every direction.
    """
    if edges[-1] >= min(frame):
        raise ValueError(f"distances up to {edges[-1]:g} in a frame of {frame[0]:g} x {frame[1]:g}")
    sums = np.zeros(len(edges) - 1)
    for shifts in _pairs(points, float(edges[-1])):
        shared = (frame[0] - np.abs(shifts[:, 0])) * (frame[1] - np.abs(shifts[:, 1]))
        sums += np.histogram(np.hypot(shifts[:, 0], shifts[:, 1]), edges, weights=2 / shared)[0]
    area = frame[0] * frame[1]
    rings = math.pi * np.diff(edges**2)
    return PairSums(edges, sums / rings, len(points) * (len(points) - 1) / area**2, area)


def pair_correlation(frames: Sequence[PairSums]) -> tuple[np.ndarray, np.ndarray | None]:
    """g(r) (K,) of frames together, larger ones with more weight, and half the width of its 95 % interval over frames.

    Each frame's pairs are set against its own density, so that frames of different densities do not look like order.
    g(r) is NaN without two points in any frame; one frame has no interval.

    Args:
        frames: of equal `edges`, at least one.
    """
    area = np.array([[frame.area] for frame in frames])
    pairs = area * np.stack([frame.pairs for frame in frames])
    squared = area * np.array([[frame.squared_density] for frame in frames])
    return _ratio(pairs, squared)


def ratio_over_images(sums: np.ndarray, weights: np.ndarray) -> Estimate:
    """Sum of `sums` (G,) over sum of `weights` (G,), one of each per image, with its 95 % interval over images.

    The interval is that of a ratio, linearised, with Student's t, as `clusters` has it; one image has none. Images of
    weight 0 are left out.

    Source: Cochran, Sampling Techniques, 1977, ch. 6; Bell and McCaffrey, Survey Methodology 28, 2002.
    """
    used = weights > 0
    value, half = _ratio(sums[used, None], weights[used, None])
    if half is None:
        return Estimate(float(value[0]))
    return Estimate(float(value[0]), float(value[0] - half[0]), float(value[0] + half[0]))


def _ratio(sums: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Ratio (K,) of sums over frames (G, K) and weights (G, 1), and half the width of its interval."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums.sum(axis=0) / weights.sum()
        if (weights > 0).sum() < 2:
            return ratio, None
        shares = weights[:, 0] / weights.sum()
        left = (sums - ratio * weights) / weights.sum()
    # Residuals of few frames of unequal weights are too small; `clusters` explains both lines.
    square = (shares**2).sum()
    factor = square / (shares**2 @ (1 - 2 * shares + square))
    return ratio, float(t_quantile(weights_df(shares), LEVEL)) * np.sqrt(factor * (left**2).sum(axis=0))


def distance_edges(spacing: float, number: int, longest: float) -> np.ndarray:
    """Edges (K + 1,) of the distances at which g(r) is estimated: finer where there are more points.

    Args:
        spacing: 1 / sqrt(points per area), the usual distance of neighbours.
        number: of points.
        longest: distance that frames allow; of it 8 spacings are taken, or less where pairs would be too many.
    """
    per_spacing = int(np.clip(round(math.sqrt(number)), 4, 20))
    # A point has pi r^2 / spacing^2 others within r; each pair is seen once.
    affordable = spacing * math.sqrt(2 * MOST_PAIRS / (math.pi * max(number, 1)))
    most = min(longest, 8 * spacing, max(affordable, spacing))
    count = max(int(most / spacing * per_spacing), 1)
    return np.linspace(0, most, count + 1)


def _to_frame(points: np.ndarray, frame: tuple[float, float]) -> np.ndarray:
    return np.asarray(np.minimum(points, np.asarray(frame) - points).min(axis=1))


def _box_weights(boxes: np.ndarray, frame: tuple[float, float]) -> np.ndarray:
    """Weights (n,) of boxes (n, 2), height and width, that lie in the frame; finite for a box as large as it."""
    sides = np.asarray(frame)
    return np.asarray((sides / np.maximum(sides - boxes, 1e-9 * sides)).prod(axis=1))


def _bond_order(points: np.ndarray, frame: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    number = len(points)
    psi, weights = np.full((number, len(FOLDS)), complex(math.nan, math.nan)), np.zeros(number)
    if number < 4:
        return psi, weights
    try:
        diagram = Voronoi(points)
    except QhullError:  # all points on one line
        return psi, weights
    ridges, ends = diagram.ridge_points, np.asarray(diagram.ridge_vertices)
    closed = np.bincount(ridges.ravel(), minlength=number) >= 3
    closed[ridges[(ends < 0).any(axis=1)].ravel()] = False
    finite = (ends >= 0).all(axis=1)
    ridges, corners = ridges[finite], diagram.vertices[ends[finite]]
    lengths = np.hypot(*(corners[:, 0] - corners[:, 1]).T)
    bonds = points[ridges[:, 1]] - points[ridges[:, 0]]
    # Rows count downwards; the other end sees the bond turned by 180 degrees, which even folds do not notice.
    angles = np.arctan2(-bonds[:, 0], bonds[:, 1])
    sums, total = np.zeros((number, len(FOLDS)), complex), np.zeros(number)
    low, high = np.full((number, 2), np.inf), np.full((number, 2), -np.inf)
    for end in (0, 1):
        mine = ridges[:, end]
        total += np.bincount(mine, lengths, number)
        for place, fold in enumerate(FOLDS):
            sums[:, place] += np.bincount(mine, lengths * np.cos(fold * angles), number)
            sums[:, place] += 1j * np.bincount(mine, lengths * np.sin(fold * angles), number)
        for corner in (corners[:, 0], corners[:, 1]):
            radius = np.hypot(*(corner - points[mine]).T)
            for axis in (0, 1):
                np.minimum.at(low[:, axis], mine, corner[:, axis] - radius)
                np.maximum.at(high[:, axis], mine, corner[:, axis] + radius)
    closed &= total > 0
    known = closed & (low >= 0).all(axis=1) & (high <= np.asarray(frame)).all(axis=1)
    psi[known] = sums[known] / total[known, None]
    weights[known] = _box_weights((high - low)[known], frame)
    return psi, weights


def _pairs(points: np.ndarray, reach: float) -> Iterator[np.ndarray]:
    """Differences (m, 2) of all pairs no farther apart than `reach`, each once, in blocks."""
    order = points[np.argsort(points[:, 0], kind="stable")]
    if len(order) < 2:
        return
    extent = np.maximum(np.ptp(order, axis=0), reach)
    each = 1 + len(order) * math.pi * reach**2 / 2 / extent.prod()
    step = max(int(_BLOCK_PAIRS / each), 1)
    for start in range(0, len(order), step):
        stop = min(start + step, len(order))
        last = int(np.searchsorted(order[:, 0], order[stop - 1, 0] + reach, "right"))
        part = order[start:last]
        pairs = cKDTree(part).query_pairs(reach, output_type="ndarray")
        # Pairs among the later rows come again with the next block.
        pairs = pairs[pairs.min(axis=1) < stop - start] if len(pairs) else pairs.reshape(0, 2)
        yield part[pairs[:, 0]] - part[pairs[:, 1]]
