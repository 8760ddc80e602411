"""Spatial order: lattices are perfect, random points are what theory says, and edges bias neither."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sage_ray.statistics.spatial_order import (
    FOLDS,
    MOST_PAIRS,
    RANDOM_PSI,
    distance_edges,
    local_order,
    pair_correlation,
    pair_sums,
    ratio_over_images,
)

FRAME = (200.0, 300.0)


def random_points(seed: int, density: float = 0.005, frame: tuple[float, float] = FRAME) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (rng.poisson(density * frame[0] * frame[1]), 2)) * frame


def square(side: int = 20, step: float = 10.0) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] * step + step / 2
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def hexagonal(side: int = 20, step: float = 10.0) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.stack([(rows + 0.5).ravel() * step * math.sqrt(3) / 2, (columns + rows % 2 / 2).ravel() * step], axis=1)


@pytest.mark.parametrize(
    ("points", "frame", "perfect"),
    [(square(), (200.0, 200.0), 4), (hexagonal(), (200 * math.sqrt(3) / 2, 205.0), 6)],
    ids=["square", "hexagonal"],
)
def test_lattices_have_their_order_and_no_other(points: np.ndarray, frame: tuple[float, float], perfect: int) -> None:
    order = local_order(points, frame)
    known = order.psi_weights > 0
    # Only the outermost ring of particles has neighbours that could lie outside.
    assert 18 * 17 <= known.sum() <= 18 * 18
    assert np.isnan(order.psi[~known]).all()
    for place, fold in enumerate(FOLDS):
        np.testing.assert_allclose(np.abs(order.psi[known, place]), 1 if fold == perfect else 0, atol=1e-6)
    near = order.nearest_weights > 0
    np.testing.assert_allclose(order.nearest[near], 10)
    # Noise of 2 % of the step makes diagonal neighbours of a square lattice, which must weigh next to nothing.
    noisy = local_order(points + np.random.default_rng(0).normal(0, 0.2, points.shape), frame)
    known = noisy.psi_weights > 0
    assert np.abs(noisy.psi[known, FOLDS.index(perfect)]).mean() > 0.95


def test_bonds_of_a_turned_lattice_have_the_phase_of_the_turn() -> None:
    turn = math.radians(10)
    turned = (square() - 100) @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) + 100
    inside = ((turned > 0) & (turned < 200)).all(axis=1)
    order = local_order(turned[inside], (200.0, 200.0))
    phases = np.angle(order.psi[order.psi_weights > 0, 0], deg=True)
    np.testing.assert_allclose(np.abs(phases), 40, atol=0.01)
    assert len(set(np.sign(phases))) == 1


def test_random_points_are_what_theory_says() -> None:
    """Pooled over frames with edges: mean nearest neighbour 0.5 / sqrt(density), g(r) = 1 up to half the frame."""
    orders = [local_order(random_points(seed), FRAME) for seed in range(40)]
    nearest, weights = (
        np.concatenate([getattr(order, name)[order.nearest_weights > 0] for order in orders])
        for name in ("nearest", "nearest_weights")
    )
    expected = 0.5 / math.sqrt(0.005)
    assert np.average(nearest, weights=weights) == pytest.approx(expected, rel=0.015)
    # Why they are weighted: near ones are known more often.
    assert nearest.mean() < 0.98 * expected
    # And why any are left out: with all of them, those at the edge have neighbours too far away.
    edges = np.linspace(0, 99, 23)
    frames = [pair_sums(random_points(seed), FRAME, edges) for seed in range(40)]
    found, half = pair_correlation(frames)
    assert half is not None and np.abs(found - 1).max() < 0.05
    assert (np.abs(found - 1) < half * 1.6).all() and np.median(half) < 0.03
    psi = np.concatenate([np.abs(order.psi[order.psi_weights > 0]) for order in orders])
    psi_weights = np.concatenate([order.psi_weights[order.psi_weights > 0] for order in orders])
    for place, fold in enumerate(FOLDS):
        assert np.average(psi[:, place], weights=psi_weights) == pytest.approx(RANDOM_PSI[fold], abs=0.015)


def test_pairs_without_edge_correction_would_be_too_few_at_large_distances() -> None:
    points, edges = random_points(3, density=0.02), np.linspace(0, 100, 11)
    corrected, _ = pair_correlation([pair_sums(points, FRAME, edges)])
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    counted = np.histogram(apart[~np.eye(len(points), dtype=bool)], edges)[0]
    bare = counted / (math.pi * np.diff(edges**2) * len(points) * (len(points) - 1) / (FRAME[0] * FRAME[1]))
    assert bare[-1] < 0.75 and corrected[-1] == pytest.approx(1, abs=0.05)


def test_pairs_in_blocks_are_all_pairs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points, edges = random_points(5), np.linspace(0, 60, 7)
    whole = pair_sums(points, FRAME, edges)
    monkeypatch.setattr("sage_ray.statistics.spatial_order._BLOCK_PAIRS", 500)
    np.testing.assert_allclose(pair_sums(points, FRAME, edges).pairs, whole.pairs)
    shift = np.abs(points[:, None] - points[None])
    apart, shared = np.hypot(*np.moveaxis(shift, 2, 0)), (FRAME[0] - shift[..., 0]) * (FRAME[1] - shift[..., 1])
    others = ~np.eye(len(points), dtype=bool)
    expected = np.histogram(apart[others], edges, weights=1 / shared[others])[0] / (math.pi * np.diff(edges**2))
    np.testing.assert_allclose(whole.pairs, expected)


def test_frames_of_other_densities_do_not_look_like_order() -> None:
    edges = np.linspace(0, 60, 7)
    frames = [pair_sums(random_points(seed, density), FRAME, edges) for seed, density in ((1, 0.002), (2, 0.02))]
    found, half = pair_correlation(frames * 3)
    np.testing.assert_allclose(found, 1, atol=0.1)
    assert half is not None and pair_correlation(frames[:1])[1] is None
    with pytest.raises(ValueError, match="distances up to 200"):
        pair_sums(random_points(0), FRAME, np.array([0.0, 200.0]))


@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 2)), np.ones((1, 2)), np.array([[1.0, 1], [2, 2]]), np.ones((5, 2)), np.arange(12.0).reshape(6, 2)],
    ids=["none", "one", "two", "five in one place", "on a line"],
)
def test_few_and_odd_points_have_what_is_known_of_them(points: np.ndarray) -> None:
    order = local_order(points, (13.0, 13.0))
    assert order.nearest.shape == (len(points),) and (order.psi_weights == 0).all()
    assert np.isfinite(order.nearest[order.nearest_weights > 0]).all() and np.isfinite(order.nearest_weights).all()
    found, half = pair_correlation([pair_sums(points, (13.0, 13.0), np.linspace(0, 3, 4))])
    assert half is None and np.isnan(found).all() == (len(points) < 2)


def test_ratio_over_images_is_that_of_sums_with_an_interval_over_images() -> None:
    held = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        weights = rng.uniform(1, 3, 8)
        found = ratio_over_images(weights * (5 + rng.normal(0, 1, 8)), weights)
        assert found.low is not None and found.high is not None
        held += found.low <= 5 <= found.high
    assert 929 <= held <= 971  # 95 %, with three standard errors
    alone = ratio_over_images(np.array([6.0, 0.0]), np.array([2.0, 0.0]))
    assert alone.value == 3 and alone.low is None


def test_distances_are_finer_with_more_points_and_end_where_pairs_would_be_too_many() -> None:
    few, many = distance_edges(10, 20, 500), distance_edges(10, 2000, 500)
    assert len(many) > 3 * len(few) and few[-1] == pytest.approx(many[-1], rel=0.1) and many[-1] == 80
    assert distance_edges(10, 2000, 30)[-1] == 30
    vast = distance_edges(10, 2_000_000, 50_000)
    assert 2_000_000 * math.pi * (vast[-1] / 10) ** 2 / 2 <= 1.01 * MOST_PAIRS
