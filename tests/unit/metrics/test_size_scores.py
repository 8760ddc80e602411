"""Scores of particles one by one: hand-counted values on tiny label maps, and scipy's distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from sage_ray.metrics.definitions import (
    IMAGE_SCORES,
    PARTICLE_LABELS,
    PARTICLE_ROWS,
    PARTICLE_SCORES,
    definitions,
    is_lower_better,
    label,
    particle_definitions,
    pooled_definition,
    truth_of,
)
from sage_ray.metrics.objects import equivalent_diameters
from sage_ray.metrics.size_scores import pooled_scores, score_particles
from sage_ray.statistics.bootstrap import drawn_weights, percentile_interval, reflected_interval

WIDTH = 2 / math.sqrt(math.pi)
"""Equivalent circular diameter of a square of one pixel."""


def row_of(*spans: tuple[int, int, int], length: int = 40) -> np.ndarray:
    """Labels (1, length): for each (label, start, end) its pixels."""
    labels = np.zeros((1, length), np.int32)
    for number, start, end in spans:
        labels[0, start:end] = number
    return labels


TRUE = row_of((1, 0, 4), (2, 4, 8), (3, 20, 29))
PRED = row_of((1, 0, 4), (2, 20, 36))


def test_scores_counted_by_hand() -> None:
    """Of particles of 4, 4 and 9 pixels one is found exactly, one is missed, one is found as 16 pixels (IoU 9/16)."""
    found = score_particles(TRUE, PRED, 0).values
    assert set(found) == set(PARTICLE_ROWS)
    assert (found["particles_true"], found["particles_pred"], found["particles_matched"]) == (3, 2, 2)
    assert found["instance_ap_50"] == pytest.approx(2 / 3)
    assert found["count_error"] == pytest.approx(-1 / 3) and found["count_error_abs"] == pytest.approx(1 / 3)
    # Diameters 2, 2, 3 and 2, 4 in units of WIDTH.
    assert found["diameter_bias"] == pytest.approx(3 / (7 / 3) - 1)
    assert found["size_ks"] == pytest.approx(0.5)
    # Between the functions: 1/6 from 2 to 3, 1/2 from 3 to 4.
    assert found["size_wasserstein"] == pytest.approx((1 / 6 + 1 / 2) * WIDTH)
    assert found["size_wasserstein_relative"] == pytest.approx((1 / 6 + 1 / 2) / (7 / 3))


def test_a_perfect_result_and_small_particles() -> None:
    found = score_particles(TRUE, TRUE * 7, 0).values
    wanted = dict.fromkeys(PARTICLE_SCORES, 0.0) | {"instance_ap_50": 1.0}
    assert {name: found[name] for name in PARTICLE_SCORES} == wanted
    large = score_particles(TRUE, PRED, 9)
    assert (large.values["particles_true"], large.values["particles_pred"]) == (1, 1)
    np.testing.assert_allclose(large.sizes, [[3 * WIDTH], [4 * WIDTH]])
    assert large.values["size_ks"] == 1 and large.values["size_wasserstein"] == pytest.approx(WIDTH)
    assert list(equivalent_diameters(TRUE, 5)) == pytest.approx([3 * WIDTH])


def test_touching_labels_are_two_particles_and_their_component_is_one() -> None:
    split = score_particles(TRUE, TRUE, 0).values
    joined = score_particles(TRUE, row_of((1, 0, 8), (2, 20, 29)), 0).values
    assert (split["count_error"], joined["count_error"]) == (0, pytest.approx(-1 / 3))
    assert joined["instance_ap_50"] == pytest.approx(1 / 4) and joined["diameter_bias"] > 0


@pytest.mark.parametrize(
    "true, pred, ap, error", [(TRUE, 0 * TRUE, 0, -1), (0 * TRUE, TRUE, 0, 3), (0 * TRUE, 0 * TRUE, 1, 0)]
)
def test_without_particles_sizes_have_no_score(true: np.ndarray, pred: np.ndarray, ap: float, error: float) -> None:
    found = score_particles(true, pred, 0).values
    assert (found["instance_ap_50"], found["count_error"]) == (ap, error)
    for name in ("diameter_bias", "size_wasserstein", "size_wasserstein_relative", "size_ks"):
        assert math.isnan(found[name])


def test_pooled_scores_are_those_of_all_particles_together() -> None:
    rng = np.random.default_rng(0)
    sizes = [(rng.integers(3, 30, 20 + n).astype(float), rng.integers(5, 33, 15 + n).astype(float)) for n in range(5)]
    sizes.append((np.zeros(0), np.array([9.0])))
    weights = np.concatenate([np.ones((1, 6)), [[2, 0, 1, 0, 0, 3]]])
    found = pooled_scores(sizes, np.full(6, 4.0), weights)
    for draw, times in enumerate(weights.astype(int).tolist()):
        true, pred = (
            np.concatenate([np.tile(pair[k], t) for pair, t in zip(sizes, times, strict=True)]) for k in (0, 1)
        )
        hits = 4 * sum(times)
        assert found["instance_ap_50"][draw] == pytest.approx(hits / (len(true) + len(pred) - hits))
        assert found["count_error"][draw] == pytest.approx(len(pred) / len(true) - 1)
        assert found["diameter_bias"][draw] == pytest.approx(pred.mean() / true.mean() - 1)
        assert found["size_wasserstein"][draw] == pytest.approx(wasserstein_distance(true, pred))
        assert found["size_wasserstein_relative"][draw] == pytest.approx(wasserstein_distance(true, pred) / true.mean())
        assert found["size_ks"][draw] == pytest.approx(ks_2samp(true, pred).statistic)


def test_draws_hold_the_crops_of_a_micrograph_together() -> None:
    weights = drawn_weights(["a", "a", "b", "c", "c", "c"], draws=200)
    assert (
        weights.shape == (200, 6) and (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    )
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all() and np.unique(weights[:, 2]).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(weights, drawn_weights([1, 1, 2, 3, 3, 3], draws=200))


def test_an_interval_holds_its_share_and_is_none_where_draws_lack_values() -> None:
    values = np.arange(1001.0)
    assert percentile_interval(values) == pytest.approx((25, 975))
    assert reflected_interval(values, 500.0) == pytest.approx((25, 975))
    assert reflected_interval(values, 20.0) == (0, pytest.approx(20))
    values[:100] = np.nan
    assert percentile_interval(values) is None and reflected_interval(values, 500.0) is None


def test_reflected_intervals_of_a_distance_hold_0_where_sizes_agree() -> None:
    """Percentiles would not: a distance of draws is never smaller than that of equal distributions."""
    rng = np.random.default_rng(5)
    sizes = [(rng.normal(12, 2, 30), rng.normal(12, 2, 30)) for _ in range(20)]
    weights = np.concatenate([np.ones((1, 20)), drawn_weights(range(20), draws=300)])
    values = pooled_scores(sizes, np.zeros(20), weights)["size_ks"]
    reflected, plain = reflected_interval(values[1:], float(values[0])), percentile_interval(values[1:])
    assert reflected is not None and plain is not None
    assert reflected[0] == 0 < plain[0]


def test_definitions_say_what_a_particle_is() -> None:
    pixel = definitions(
        min_object_pixels=15,
        boundary_tolerance=2,
        mask_erosion=2,
        min_truth_pixels=0,
        image_size=(64, 96),
        foreground="1",
    )
    told = [
        particle_definitions(has_instances=each, split="watershed", min_object_pixels=15, truth=truth_of(pixel["dice"]))
        for each in (True, False)
    ]
    assert set(told[0]) == set(PARTICLE_ROWS) and not set(told[0].values()) & set(told[1].values())
    assert len(set(told[0].values())) == len(PARTICLE_ROWS)
    end = "truth eroded by 2x2 pixels, particles being mask values 1, at 64x96 pixels"
    assert all(text.endswith(f", {end}") for each in told for text in each.values())
    pooled = pooled_definition(told[0]["size_ks"])
    assert "all images together" in pooled and "mean over images" not in pooled and pooled.endswith(f", {end}")
    assert not set(PARTICLE_SCORES) & set(IMAGE_SCORES) and set(PARTICLE_LABELS) == set(PARTICLE_SCORES)
    assert label("size_ks") == PARTICLE_LABELS["size_ks"]
    assert is_lower_better("test/size_ks") and not is_lower_better("instance_ap_50")
