"""Crops of one micrograph are one cluster: the mean stays that over images, the interval is over micrographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_ray.statistics import mean_interval, paired_interval
from sage_ray.statistics.clusters import by_group, coarser
from sage_ray.statistics.combined import combine, mean_squares, t_quantile
from sage_ray.statistics.crossed import components, contrasts
from sage_ray.statistics.power import design, error_of

UNEQUAL = (1, 2, 2, 3, 4, 6, 8, 10)
"""Crops of each micrograph."""


def names(sizes: tuple[int, ...]) -> list[str]:
    return [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]


def crops(rng: np.random.Generator, sizes: tuple[int, ...], num_seeds: int, sds: dict[str, float]) -> np.ndarray:
    """Scores (n_images, n_seeds) with mean 0; standard deviations over group, image, seed, group x seed and rest."""
    index = np.repeat(np.arange(len(sizes)), sizes)

    def draw(name: str, *shape: int) -> np.ndarray:
        return sds.get(name, 0.0) * rng.standard_normal(shape)

    shared = draw("group", len(sizes), 1) + draw("group_seed", len(sizes), num_seeds)
    own = draw("image", len(index), 1) + draw("rest", len(index), num_seeds)
    return np.asarray(shared[index] + own + draw("seed", 1, num_seeds))


@given(st.lists(st.integers(1, 7), min_size=2, max_size=9), st.integers(1, 4), st.integers(0, 10**6))
def test_the_mean_is_that_over_images_for_every_seed(sizes: list[int], num_seeds: int, seed: int) -> None:
    table = np.random.default_rng(seed).random((sum(sizes), num_seeds))
    gathered = by_group(names(tuple(sizes)), len(table)).gather(table)
    np.testing.assert_allclose(gathered.mean(axis=0), table.mean(axis=0))
    assert mean_interval(table, groups=names(tuple(sizes))).mean == pytest.approx(table.mean())


def test_equal_sizes_are_the_analysis_of_group_means() -> None:
    table = np.random.default_rng(1).random((12, 3))
    means = table.reshape(4, 3, 3).mean(axis=1)
    found, plain = mean_interval(table, groups=names((3, 3, 3, 3))), mean_interval(means)
    assert (found.low, found.high, found.df) == pytest.approx((plain.low, plain.high, plain.df))
    assert (found.num_images, found.num_groups) == (12, 4)
    assert found.over == "4 micrographs (12 images) x 3 seeds"


def test_one_image_a_group_changes_not_a_bit() -> None:
    table = np.random.default_rng(2).random((6, 3))
    assert mean_interval(table, groups=list("abcdef")) == mean_interval(table)
    assert "6 images" in mean_interval(table, groups=list("abcdef")).over


def test_the_error_of_unequal_groups_by_hand() -> None:
    # Sizes 1 and 3, one seed: means 0 and 2, theta 1.5, w = (1/4, 3/4), q = 5/8; 1 - 2 w + q = (9/8, 1/8).
    table = np.array([0.0, 1.0, 2.0, 3.0])
    found = mean_interval(table, groups=["a", "b", "b", "b"])
    # Residuals -1.5 and 0.5: sum w^2 r^2 = 9/64 + 9/64; its expectation is v sum w^2 (1 - 2 w + q), the true one v q.
    expected = (9 / 64 + 9 / 64) * (5 / 8) / (1 / 16 * 9 / 8 + 9 / 16 * 1 / 8)
    assert found.df == pytest.approx(1)
    assert found.high - found.mean == pytest.approx(float(t_quantile(1, 0.95)) * np.sqrt(expected))


def test_linearised_error_is_unbiased_for_alike_crops() -> None:
    """Crops that are one and the same: the error of the mean is what c makes it, and f is its degrees of freedom."""
    rng, sizes = np.random.default_rng(3), UNEQUAL
    together = by_group(names(sizes), sum(sizes))
    tables = np.stack([crops(rng, sizes, 1, {"group": 1.0}) for _ in range(4000)])
    squares, _, _ = mean_squares(together.gather(tables))
    estimated = squares / len(sizes)
    true = float(((np.array(sizes) / sum(sizes)) ** 2).sum())
    assert estimated.mean() == pytest.approx(true, rel=0.05)
    assert 2 * estimated.mean() ** 2 / estimated.var() == pytest.approx(together.df, rel=0.1)


CASES = {
    "alike": {"group": 1.0, "image": 0.3, "seed": 0.3, "group_seed": 0.1, "rest": 0.3},
    "half alike": {"group": 0.7, "image": 0.7, "seed": 0.2, "group_seed": 0.1, "rest": 0.5},
    "unlike": {"image": 1.0, "seed": 0.2, "rest": 0.5},
    "seeds too": {"group": 0.5, "image": 0.5, "seed": 1.0, "group_seed": 0.3, "rest": 0.5},
}


def covered(tables: np.ndarray, groups: list[str] | None) -> float:
    together = by_group(groups, tables.shape[1])
    gathered = together.gather(tables)
    df_seeds = gathered.shape[-1] - 1
    variance, df = combine(*mean_squares(gathered), together.df, df_seeds, together.df * df_seeds)
    error = np.sqrt(variance / gathered[0].size)
    return float((np.abs(gathered.mean(axis=(-2, -1))) <= error * t_quantile(df, 0.95)).mean())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [UNEQUAL, (4,) * 7, (1, 1, 2, 2, 3, 8, 11)], ids=["unequal", "equal", "very unequal"])
def test_intervals_over_crops_hold_their_rate(case: str, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    tables = np.stack([crops(rng, sizes, 5, CASES[case]) for _ in range(3000)])
    assert covered(tables, names(sizes)) >= 0.93


def test_crops_taken_for_independent_do_not_hold_their_rate() -> None:
    """Why clusters are there."""
    rng = np.random.default_rng(4)
    tables = np.stack([crops(rng, UNEQUAL, 5, CASES["half alike"]) for _ in range(2000)])
    assert covered(tables, None) < 0.88 < 0.93 <= covered(tables, names(UNEQUAL))


def test_the_interval_is_the_one_that_the_simulation_checks() -> None:
    table = crops(np.random.default_rng(5), UNEQUAL, 5, CASES["alike"])
    interval = mean_interval(table, groups=names(UNEQUAL))
    together = by_group(names(UNEQUAL), len(table))
    gathered = together.gather(table)
    variance, df = combine(*mean_squares(gathered), together.df, 4, together.df * 4)
    half = np.sqrt(variance / gathered.size) * t_quantile(df, 0.95)
    assert interval.high - interval.mean == pytest.approx(float(half))
    assert interval.high - interval.low > 1.4 * (mean_interval(table).high - mean_interval(table).low)


def test_arms_of_a_study_are_compared_over_micrographs() -> None:
    rng, groups = np.random.default_rng(6), names(UNEQUAL)
    scores = np.stack([crops(rng, UNEQUAL, 5, CASES["half alike"]) for _ in range(2)])
    together = by_group(groups, len(groups))
    found = contrasts(scores, together=together)
    interval = paired_interval(scores[1], scores[0], groups=groups)
    assert found.difference[0] == pytest.approx(scores[1].mean() - scores[0].mean()) == pytest.approx(interval.mean)
    assert found.half_width(0.95)[0] == pytest.approx((interval.high - interval.low) / 2)
    assert found.error[0] > contrasts(scores).error[0]
    # What is said of these images alone does not depend on what they are crops of.
    these = contrasts(scores, images="these", together=together)
    assert these.error == pytest.approx(contrasts(scores, images="these").error)


def test_a_study_of_two_arms_plans_with_the_error_that_it_found() -> None:
    rng, groups = np.random.default_rng(7), names(UNEQUAL)
    scores = np.stack([crops(rng, UNEQUAL, 5, {"group": 1.0, "image": 1.0, "rest": 1.0}) for _ in range(2)])
    together = by_group(groups, len(groups))
    pilot, found = components(scores, together=together), contrasts(scores, together=together)
    assert pilot.num_images == len(UNEQUAL) and 0 < pilot.evenness < 1
    error, df = error_of(pilot, design(pilot))
    assert (error, df) == pytest.approx((found.error[0], found.df[0]), rel=0.02)


def test_coarser_holds_together_what_either_does() -> None:
    assert coarser(list("aabbc"), list("xyyzw")) == [0, 0, 0, 0, 1]
    assert coarser(list("abcd"), list("aabb")) == [0, 0, 1, 1]
    assert coarser(list("abc"), list("def")) == [0, 1, 2]


def test_one_micrograph_is_refused() -> None:
    with pytest.raises(ValueError, match="crops of one micrograph"):
        mean_interval(np.ones((5, 2)), groups=["a"] * 5)
    with pytest.raises(ValueError, match="one image says nothing"):
        contrasts(np.ones((2, 5, 2)), together=by_group(["a"] * 5, 5))
    with pytest.raises(ValueError, match="3 groups of 5 images"):
        mean_interval(np.ones((5, 2)), groups=["a", "b", "c"])
