"""Distances of generated and real sets: planted truths, p values that are uniform, values by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from sage_ray.metrics import generation
from sage_ray.metrics.generation import (
    frechet_beside_real,
    frechet_distance,
    half_of,
    kernel_matrix,
    paired_mmd,
    unpaired_mmd,
)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PERMUTATIONS", 199)
    monkeypatch.setattr(generation, "SUBSAMPLES", 200)


def pairs(rng: np.random.Generator, num: int, draws: int, shift: float = 0.0, mask: float = 1.0) -> np.ndarray:
    """Features of real images and `draws` generated ones of each mask, which share what the mask determines."""
    shared = mask * rng.normal(size=(num, 6))
    versions = [shared + rng.normal(size=(num, 6)) + (shift if k else 0.0) for k in range(draws + 1)]
    return np.concatenate(versions)


def test_kernels_by_hand() -> None:
    features = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    found = kernel_matrix(features)
    assert found[0, 1] == pytest.approx((2 / 2 + 1) ** 3) and found[2, 2] == 1.0
    assert kernel_matrix(features, "gaussian")[0, 1] == pytest.approx(np.exp(-2 / 2))  # squared distances 2, 4, 2
    with pytest.raises(ValueError, match="unknown kernel"):
        kernel_matrix(features, "linear")
    with pytest.raises(ValueError, match="not finite"):
        kernel_matrix(features * np.nan)


def test_the_statistic_leaves_out_all_pairs_of_one_micrograph() -> None:
    rng = np.random.default_rng(0)
    kernel = kernel_matrix(rng.normal(size=(12, 3)))
    groups = ["a", "a", "b", "c", "d", "e"]
    found = paired_mmd(kernel, 6, groups).value
    real = [(i, j) for i in range(6) for j in range(6) if groups[i] != groups[j]]
    expected = np.mean([kernel[i, j] for i, j in real]) + np.mean([kernel[6 + i, 6 + j] for i, j in real])
    expected -= 2 * np.mean([kernel[i, 6 + j] for i, j in real])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("draws", [1, 3])
def test_paired_p_is_uniform_and_the_distance_zero_on_average_without_a_difference(draws: int) -> None:
    rng = np.random.default_rng(draws)
    found = [paired_mmd(kernel_matrix(pairs(rng, 16, draws)), 16) for _ in range(150)]
    assert stats.kstest([each.p_value for each in found], "uniform").pvalue > 0.01
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("kernel", generation.KERNELS)
def test_p_of_two_real_halves_is_uniform(kernel: str) -> None:
    rng = np.random.default_rng(7)
    p_values = []
    for n in range(150):
        # Crops of a micrograph resemble one another: taken for independent images they would give small p too often.
        groups = np.repeat(np.arange(14), 3)
        features = rng.normal(size=(14, 5))[groups] + 0.5 * rng.normal(size=(42, 5))
        half = half_of(groups.tolist(), seed=n)
        p_values.append(unpaired_mmd(kernel_matrix(features, kernel), half, groups.tolist(), seed=n).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_a_shift_is_found_and_its_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    large = kernel_matrix(pairs(rng, 1500, 1, shift=0.5))
    truth = paired_mmd(large, 1500).value
    found = [paired_mmd(kernel_matrix(pairs(rng, 40, 1, shift=0.5)), 40) for _ in range(60)]
    assert np.mean([each.p_value < 0.05 for each in found]) > 0.9
    assert np.mean([each.low <= truth <= each.high for each in found]) > 0.85


def test_frechet_distance_agrees_with_the_root_of_the_product() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(40, 4)), rng.normal(size=(50, 4)) * [1, 2, 3, 4] + 0.5
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    ours, theirs = np.cov(first.T), np.cov(second.T)
    expected = apart + np.trace(ours + theirs - 2 * linalg.sqrtm(ours @ theirs).real)
    assert frechet_distance(first, second) == pytest.approx(expected)
    published = apart + np.trace(ours + theirs - 2 * linalg.sqrtm((ours + theirs) / 2).real)
    assert frechet_distance(first, second, published=True) == pytest.approx(published)
    wide = rng.normal(size=(2, 5, 20))
    assert frechet_distance(wide[0], wide[0]) == pytest.approx(0, abs=1e-9)
    # Row 32: the published formula is not 0 for a set beside itself.
    assert abs(frechet_distance(wide[0], wide[0], published=True)) > 1


def test_frechet_distances_stand_beside_those_of_real_halves() -> None:
    rng = np.random.default_rng(3)
    real = rng.normal(size=(30, 8))
    same = frechet_beside_real(real, real)
    assert same.generated == same.real > 0 and same.images == 15
    far = frechet_beside_real(real, real + 3)
    assert far.generated > far.real + 50 and far.real == same.real


@pytest.mark.parametrize(("first", "num"), [(2, 4), (3, 6), (3, 20)])
def test_sets_too_small_to_leave_half_out_have_no_interval(first: int, num: int) -> None:
    features = np.random.default_rng(first).normal(size=(num, 5))
    found = unpaired_mmd(kernel_matrix(features), np.arange(num) < first)
    assert np.isfinite(found.value) and 0 < found.p_value <= 1
    assert np.isnan(found.low) and np.isnan(found.high), "half of three is one micrograph, which is at no distance"
    whole = unpaired_mmd(kernel_matrix(features), np.arange(num) < num // 2)
    assert (whole.low < whole.high) if num >= 8 else np.isnan(whole.low)


def test_bad_input_is_named() -> None:
    kernel = np.eye(9)
    with pytest.raises(ValueError, match="four or more"):
        unpaired_mmd(np.eye(6), np.arange(6) < 2, ["a", "a", "b", "b", "c", "c"])
    with pytest.raises(ValueError, match="1 micrographs in one of the sets"):
        unpaired_mmd(kernel, np.arange(9) < 1)
    with pytest.raises(ValueError, match="in both sets"):
        unpaired_mmd(kernel, np.arange(9) < 1, list("aabbccdde"))
    with pytest.raises(ValueError, match="9 images"):
        paired_mmd(kernel, 4)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_paired_p_is_uniform_where_the_draws_of_a_mask_are_alike(spread: float) -> None:
    # A generator that makes little of its style: were a draw as good as the real image, a third of p were below .05.
    rng = np.random.default_rng(11)
    p_values = []
    for _ in range(150):
        real = rng.normal(size=(14, 6))
        drawn = rng.normal(size=(14, 6))
        draws = [np.sqrt(1 - spread**2) * drawn + spread * rng.normal(size=(14, 6)) for _ in range(4)]
        p_values.append(paired_mmd(kernel_matrix(np.concatenate([real, *draws])), 14).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) < 0.12


def test_frechet_distances_of_images_without_partners_stand_at_equal_numbers() -> None:
    rng = np.random.default_rng(4)
    real, made = rng.normal(size=(30, 8)), rng.normal(size=(200, 8))
    found = frechet_beside_real(real, made, paired=False)
    assert found.images == 15 and found.generated == pytest.approx(found.real, rel=0.25)
    few = frechet_beside_real(real, made[:6], paired=False)
    assert few.images == 6 and few.real > found.real
