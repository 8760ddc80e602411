"""Labels saved: planted curves, open ends, one run, and intervals that hold the truth in a small simulation."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from sage_ray.statistics.clusters import by_group
from sage_ray.statistics.labels_saved import labels_saved
from sage_ray.statistics.paired import mean_interval
from sage_ray.statistics.three_way import mean_error

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from labels_saved import COUNTS, coverage, curve, drawn_study  # noqa: E402

SIZE = (12, 3, 3)


def planted(shift: float, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return drawn_study(np.random.default_rng(0), SIZE, shift, noise)


@pytest.mark.parametrize(("shift", "at", "expected"), [(0.0, 2, 0.0), (1.0, 2, 8.0), (2.0, 3, 24.0), (-1.0, 1, -8.0)])
def test_doublings_of_labels_are_found_exactly_without_noise(shift: float, at: int, expected: float) -> None:
    arm, supervised = planted(shift)
    found = labels_saved(COUNTS, arm, COUNTS[at], supervised[at])
    assert found.saved == pytest.approx(expected, abs=1e-9)
    assert found.low <= found.saved <= found.high
    # A loss that falls as the score rises says the same.
    flipped = labels_saved(COUNTS, -arm, COUNTS[at], -supervised[at], lower_is_better=True)
    assert flipped == found


def test_interpolation_is_straight_in_log2_of_the_labels() -> None:
    # Between 4 labels (score 0) and 16 (score 1), .5 is reached at 8.
    arm = np.array([0.0, 1.0]).reshape(2, 1, 1, 1) + np.zeros((2, *SIZE))
    assert labels_saved((4, 16), arm, 32, np.full(SIZE, 0.5)).saved == pytest.approx(24.0)


def test_the_first_crossing_counts_where_a_curve_is_not_monotone() -> None:
    arm = np.array([0.0, 1.0, 0.2, 1.0]).reshape(4, 1, 1, 1) + np.zeros((4, *SIZE))
    assert labels_saved((4, 8, 16, 32), arm, 32, np.full(SIZE, 0.5)).saved == pytest.approx(32 - 4 * 2**0.5)


def test_beyond_the_measured_labels_only_a_bound_is_told() -> None:
    arm, supervised = planted(2.0, noise=0.2)
    better = labels_saved(COUNTS, arm + 1, 16.0, supervised[2])
    assert (better.saved, better.low, better.high) == (math.inf, 12.0, math.inf)
    assert better.text() == "> 12 (reached at 4) [12, > 12]"
    worse = labels_saved(COUNTS, arm - 1, 16.0, supervised[2])
    assert (worse.saved, worse.low, worse.high) == (-math.inf, -math.inf, -74.0)
    assert worse.text() == "not reached at 90 [< -74, -74]"
    # Not told apart at the fewest labels: the upper end is open, the lower is not.
    near = labels_saved(COUNTS, arm, 8.0, supervised[0] + (arm[0].mean() - supervised[0].mean()) - 1e-6)
    assert near.saved == math.inf and near.high == math.inf and near.low < near.most


def test_one_run_has_no_interval() -> None:
    arm, supervised = planted(1.0, noise=0.1)
    alone = labels_saved(COUNTS, arm[..., :1, :1], 16.0, supervised[2][:, :1, :1])
    assert math.isnan(alone.low) and math.isnan(alone.high) and "[" not in alone.text()


def test_bad_input_is_named() -> None:
    arm, supervised = planted(1.0)
    with pytest.raises(ValueError, match="two numbers of labels or more"):
        labels_saved((4,), arm[:1], 16.0, supervised[2])
    with pytest.raises(ValueError, match="ascending"):
        labels_saved((8, 4, 16, 32, 90), arm, 16.0, supervised[2])
    with pytest.raises(ValueError, match="differ in images"):
        labels_saved(COUNTS, arm, 16.0, supervised[2][:5])


@pytest.mark.parametrize("size", [(28, 3, 3), (28, 2, 5), (12, 3, 3)])
def test_intervals_hold_the_truth(size: tuple[int, int, int]) -> None:
    held, _ = coverage(size, 0.5, 2, 150)
    assert held >= 0.92


def test_one_subset_is_the_two_way_analysis() -> None:
    table = np.random.default_rng(1).normal(size=(9, 4))
    known = mean_interval(table)
    for shape in ((9, 4, 1), (9, 1, 4)):
        error, df = mean_error(table.reshape(shape))
        assert (float(error), float(df)) == pytest.approx((known.error, known.df))
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    error, df = mean_error(table[..., None], by_group(groups, 9))
    crops = mean_interval(table, groups=groups)
    assert (float(error), float(df)) == pytest.approx((crops.error, crops.df))


def test_the_error_of_a_mean_over_three_factors_is_unbiased() -> None:
    rng = np.random.default_rng(2)
    images, seeds, subsets, studies = 6, 3, 4, 4000
    alone = {(images, 1, 1): 1.0, (1, seeds, 1): 0.5, (1, 1, subsets): 0.7}
    pairs = {(images, seeds, 1): 0.4, (images, 1, subsets): 0.4, (1, seeds, subsets): 0.5}
    sizes = {**alone, **pairs, (images, seeds, subsets): 1.0}
    tables = sum(sd * rng.normal(size=(studies, *shape)) for shape, sd in sizes.items())
    true = sum(sd**2 / math.prod(shape) for shape, sd in sizes.items())
    error, df = mean_error(tables)  # type: ignore[arg-type]
    # Never below the truth by more than chance: its floors can only raise it.
    assert 0.97 * true < float(np.mean(error**2)) < 1.25 * true
    assert (df >= 2).all()


def test_the_true_curve_of_the_simulation_is_straight() -> None:
    assert np.diff(curve(np.array([4.0, 8.0, 16.0]), 1.0)) == pytest.approx([0.06, 0.06])
