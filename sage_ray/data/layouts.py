"""Where drawn particles lie: lattices, loops, chains, agglomerates, as (n,2) centres (row, column) in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

Generator = np.random.Generator
MAX_PARTICLES = 4000
"""Upper bound of one image's particles; a lattice in a large image is cut off there."""


def draw_centres(rng: Generator, size: int, radius: float) -> tuple[np.ndarray, bool]:
    """Centres (n,2) float64 of particles of mean `radius` pixels, and whether they may overlap.

    The frame is a square of `size` pixels; centres may lie up to one radius outside it. At least one lies well inside.
    """
    layout, overlapping = _LAYOUTS[int(rng.choice(len(_LAYOUTS), p=_WEIGHTS))]
    centres = layout(rng, size, radius)
    inside = ((centres > -radius) & (centres < size + radius)).all(axis=1)
    centres = centres[inside][:MAX_PARTICLES]
    if overlapping:
        # Enough substrate must stay in sight, also where a small frame lies within one agglomerate.
        centres = centres[: max(1, int(0.55 * size**2 / (math.pi * radius**2)))]
    else:
        centres = _apart(centres, 1.98 * radius)
    if not ((centres > radius) & (centres < size - radius)).all(axis=1).any():
        centres = np.vstack([centres, rng.uniform(0.3 * size, 0.7 * size, (1, 2))])
    return centres, overlapping


def _hexagonal(rng: Generator, size: int, radius: float) -> np.ndarray:
    return _lattice(rng, size, radius, np.array([[1.0, 0.0], [0.5, math.sqrt(3) / 2]]))


def _square(rng: Generator, size: int, radius: float) -> np.ndarray:
    return _lattice(rng, size, radius, np.eye(2))


def _lattice(rng: Generator, size: int, radius: float, basis: np.ndarray) -> np.ndarray:
    spacing = radius * rng.uniform(2.1, 3.6)
    reach = min(int(size / spacing) + 2, 90)
    steps = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    angle = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centres = grid @ (basis * spacing) @ rotation + size / 2 + rng.uniform(-spacing, spacing, 2)
    centres = centres + rng.normal(0, rng.uniform(0.02, 0.07) * spacing, centres.shape)
    kept = rng.random(len(centres)) > rng.uniform(0.01, 0.2)
    if rng.random() < 0.5:
        kept &= _domain(rng, centres, size)
    left: np.ndarray = centres[kept]
    return left


def _domain(rng: Generator, centres: np.ndarray, size: int) -> np.ndarray:
    """Whether each centre is in an island of the lattice: the frame is seldom covered from edge to edge."""
    waves = np.zeros(len(centres))
    for _ in range(4):
        direction = rng.normal(0, 1, 2)
        waves += np.cos(centres @ (direction / size * 2 * math.pi) + rng.uniform(0, 2 * math.pi))
    return waves > np.quantile(waves, rng.uniform(0.15, 0.55))


def _loops(rng: Generator, size: int, radius: float) -> np.ndarray:
    parts = []
    for _ in range(int(rng.integers(2, 7))):
        centre = rng.uniform(0, size, 2)
        half = radius * rng.uniform(3, 9) * np.array([1.0, rng.uniform(0.6, 1.0)])
        for shrink in (1.0, 0.55)[: 1 + int(rng.random() < 0.3)]:
            circumference = 2 * math.pi * shrink * half.mean()
            count = max(5, int(circumference / (radius * rng.uniform(2.1, 3.0))))
            angles = np.arange(count) * 2 * math.pi / count + rng.uniform(0, 2 * math.pi)
            ring = np.stack([np.sin(angles), np.cos(angles)], axis=1) * half * shrink
            ring = ring + rng.normal(0, 0.12 * radius, ring.shape)
            parts.append(centre + ring[rng.random(count) > rng.uniform(0, 0.25)])
    return np.vstack([*parts, _strays(rng, size)])


def _chains(rng: Generator, size: int, radius: float) -> np.ndarray:
    parts = []
    for _ in range(int(rng.integers(3, 9))):
        count = int(rng.integers(5, 22))
        step = radius * rng.uniform(2.02, 2.6)
        headings = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, rng.uniform(0.08, 0.4), count))
        moves = step * np.stack([np.sin(headings), np.cos(headings)], axis=1)
        parts.append(rng.uniform(0, size, 2) + np.cumsum(moves, axis=0))
    return np.vstack([*parts, _strays(rng, size)])


def _agglomerates(rng: Generator, size: int, radius: float) -> np.ndarray:
    parts = []
    for _ in range(int(rng.integers(2, 6))):
        cluster = [rng.uniform(0.05 * size, 0.95 * size, 2)]
        for _ in range(int(rng.integers(3, 26))):
            host = cluster[int(rng.integers(max(0, len(cluster) - 8), len(cluster)))]
            angle, gap = rng.uniform(0, 2 * math.pi), radius * rng.uniform(1.5, 2.0)
            cluster.append(host + gap * np.array([math.sin(angle), math.cos(angle)]))
        parts.append(_apart(np.array(cluster), 1.25 * radius))
    return np.vstack([*parts, _strays(rng, size)])


def _strays(rng: Generator, size: int) -> np.ndarray:
    return rng.uniform(0, size, (int(rng.integers(2, 12)), 2))


def _apart(centres: np.ndarray, distance: float) -> np.ndarray:
    """The centres without those that lie nearer than `distance` to an earlier one that stays."""
    if len(centres) < 2:
        return centres
    kept = np.ones(len(centres), bool)
    for first, second in sorted(cKDTree(centres).query_pairs(distance)):
        if kept[first]:
            kept[second] = False
    return centres[kept]


_LAYOUTS: tuple[tuple[Callable[[Generator, int, float], np.ndarray], bool], ...] = (
    (_hexagonal, False),
    (_square, False),
    (_loops, False),
    (_chains, False),
    (_agglomerates, True),
)
_WEIGHTS = (0.32, 0.14, 0.2, 0.16, 0.18)
