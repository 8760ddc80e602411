"""Bootstrap over images, for what no single image has a value of; crops of one micrograph are drawn together.

A distance between two distributions is larger in each draw than in what is drawn from, and so is what was measured
itself. Where sizes agree, percentiles of the draws miss the truth nearly always (28 images: 0 to 1 % of the intervals
held it), so that for distances the draws are reflected at the estimate (88 to 92 %; benchmarks/size_intervals.py).

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 3.8 (whole clusters are drawn).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from sage_ray.statistics.clusters import by_group

DRAWS = 1000


def drawn_weights(groups: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, images) float64: how often each image is drawn, whole groups at a time, with replacement.

    Args:
        groups: name of the micrograph that each image is a crop of.
        draws: number of draws.
        seed: same seed, same draws.
    """
    together = by_group(groups, len(groups))
    picked = np.random.default_rng(seed).integers(0, together.num_groups, (draws, together.num_groups))
    counts = np.zeros((draws, together.num_groups))
    np.add.at(counts, (np.arange(draws)[:, None], picked), 1.0)
    return np.asarray(counts[:, together.index])


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """(low, high) that hold the share `level` of the draws; None if a twentieth of them or more has no value."""
    known = values[np.isfinite(values)]
    if len(known) <= 0.95 * len(values):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reflected_interval(values: np.ndarray, estimate: float, level: float = 0.95) -> tuple[float, float] | None:
    """(low, high) of a distance: the percentiles of the draws reflected at the estimate, which it holds; at least 0.

    None as for `percentile_interval`. Source: Davison and Hinkley, section 5.2.1 (basic bootstrap).
    """
    found = percentile_interval(values, level)
    return None if found is None else (max(2 * estimate - found[1], 0.0), max(2 * estimate - found[0], estimate))
