"""How many fewer labels reach the score that a supervised arm has at N labels, with an interval.

The curve of an arm over labels is a straight line in log2 n between the numbers of labels that were measured. Where it
first reaches the supervised arm's score at N stands n*, and N - n* labels are saved. At any n the difference

    D(n) = (1 - w) y_k + w y_(k+1) - y_supervised(N),    w = log2(n / n_k) / log2(n_(k+1) / n_k),

is one number per image, seed and subset, so that its error is that of `three_way`. The interval of n* holds all n at
which |D(n)| is at most t times its error (Fieller's construction): it holds the true n* as often as the interval of
D(n*) holds 0, needs no resampling of two or three seeds, and is open at an end of the measured range at which the two
scores cannot be told apart. Of several stretches the whole from the first to the last is given.

Source: Fieller, Journal of the Royal Statistical Society B 16, 1954.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_ray.statistics.clusters import Clusters
from sage_ray.statistics.combined import t_quantile
from sage_ray.statistics.three_way import mean_error

POINTS = 64
"""Places between two measured numbers of labels at which D is judged."""


@dataclass(frozen=True)
class LabelsSaved:
    """Labels saved at `at` labels, with the interval at `level`; all in labels, below 0 where more are needed.

    Attributes:
        at: N, the labels of the supervised arm.
        saved: N - n*; inf if the arm is better already at the fewest measured labels, -inf if it is not as good at the
            most: then `most` and `least` say beyond what.
        low, high: of the interval; -inf and inf at an open end, NaN where one run tells no error.
        least, most: what could have been measured: N minus the most, and N minus the fewest labels of the arm.
        level: of the interval.
    """

    at: float
    saved: float
    low: float
    high: float
    least: float
    most: float
    level: float

    def text(self) -> str:
        """Such as "12 [3, 20]", "> 12 (reached at 4) [9, > 12]" or "not reached at 64"; one run has no interval."""
        if math.isinf(self.saved):
            fewest, most = self.at - self.most, self.at - self.least
            value = f"> {self.most:.0f} (reached at {fewest:.0f})" if self.saved > 0 else f"not reached at {most:.0f}"
        else:
            value = f"{self.saved:.0f}"
        if math.isnan(self.low) or math.isnan(self.high):
            return value
        low = f"< {self.least:.0f}" if math.isinf(self.low) else f"{self.low:.0f}"
        high = f"> {self.most:.0f}" if math.isinf(self.high) else f"{self.high:.0f}"
        return f"{value} [{low}, {high}]"


def labels_saved(
    counts: Sequence[float],
    arm: np.ndarray,
    at: float,
    supervised: np.ndarray,
    *,
    level: float = 0.95,
    together: Clusters | None = None,
    lower_is_better: bool = False,
) -> LabelsSaved:
    """Labels that an arm saves at `at` labels of the supervised one.

    Args:
        counts: numbers of labels of the arm, two or more, ascending.
        arm: (counts, n_images, n_seeds, n_subsets) float, its scores.
        at: labels of the supervised arm.
        supervised: (n_images, n_seeds, n_subsets) float, its scores of the same images, seeds and subsets.
        level: of the interval.
        together: which images are crops of one micrograph.
        lower_is_better: whether a low score is good.

    Raises:
        ValueError: fewer than two counts, counts that do not ascend, or other images, seeds or subsets.
    """
    places = np.log2(np.asarray(counts, np.float64))
    if len(places) < 2 or (np.diff(places) <= 0).any():
        raise ValueError(f"counts {list(counts)}: give two numbers of labels or more, ascending")
    if arm.shape != (len(places), *supervised.shape):
        raise ValueError(f"scores {arm.shape} and {supervised.shape} differ in images, seeds or subsets")
    gain = (supervised - arm) if lower_is_better else (arm - supervised)
    grid = _grid(places, gain.mean(axis=(-3, -2, -1)))
    tables = _between(places, gain, grid)
    difference = tables.mean(axis=(-3, -2, -1))
    error, df = mean_error(tables, together)
    most, least = at - float(counts[0]), at - float(counts[-1])

    crossing = _first_reached(grid, difference)
    saved = {-math.inf: math.inf, math.inf: -math.inf}.get(crossing, at - 2**crossing)
    if supervised.shape[1] * supervised.shape[2] < 2:
        return LabelsSaved(at, saved, math.nan, math.nan, least, most, level)
    alike = np.abs(difference) <= error * t_quantile(df, level)
    alike |= np.isclose(grid, crossing)
    inside = np.flatnonzero(alike)
    if not len(inside):  # better, or worse, everywhere, and plainly so
        low, high = (most, math.inf) if saved > 0 else (-math.inf, least)
        return LabelsSaved(at, saved, low, high, least, most, level)
    first, last = int(inside[0]), int(inside[-1])
    high = math.inf if first == 0 else at - 2 ** float(grid[first])
    low = -math.inf if last == len(grid) - 1 else at - 2 ** float(grid[last])
    if saved == math.inf:
        high = math.inf
    if saved == -math.inf:
        low = -math.inf
    return LabelsSaved(at, saved, low, high, least, most, level)


def _grid(places: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Ascending log2 n at which D is judged: evenly between the measured ones, and where its mean crosses 0."""
    steps = [np.linspace(low, high, POINTS, endpoint=False) for low, high in zip(places, places[1:], strict=False)]
    zeros = [
        low + (high - low) * one / (one - other)
        for low, high, one, other in zip(places, places[1:], means, means[1:], strict=False)
        if one * other < 0
    ]
    return np.unique(np.concatenate([*steps, places, zeros]))


def _between(places: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Values (places, ...) at log2 n of the grid: (grid, ...), a straight line between two places."""
    index = np.clip(np.searchsorted(places, grid, side="right") - 1, 0, len(places) - 2)
    share = (grid - places[index]) / (places[index + 1] - places[index])
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((1 - share) * values[index] + share * values[index + 1])


def _first_reached(grid: np.ndarray, difference: np.ndarray) -> float:
    """log2 n at which the curve first reaches the score; -inf if it does at the first, inf if nowhere."""
    tiny = 1e-12 * max(1.0, float(np.abs(difference).max()))
    reached = np.flatnonzero(difference >= -tiny)
    if not len(reached):
        return math.inf
    # Equal at the fewest labels is a place, better there is none.
    first = int(reached[0])
    return -math.inf if first == 0 and difference[0] > tiny else float(grid[first])
