from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emps_cases import EmpsFacts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from skimage.segmentation import find_boundaries

from sage_ray.metrics.boundary import boundary, boundary_f1, within
from sage_ray.metrics.definitions import IMAGE_SCORES
from sage_ray.metrics.image_scores import score_image, summarise
from sage_ray.metrics.overlap import PixelCounts, dice, iou, pixel_counts, precision, recall
from sage_ray.metrics.threshold import otsu

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def disc(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_scores_of_a_mask_counted_by_hand() -> None:
    pred = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    true = np.array([[1, 0, 0, 1], [1, 0, 0, 0]], bool)
    counts = pixel_counts(pred, true)
    assert counts == PixelCounts(tp=2, fp=1, fn=1)
    assert dice(counts) == pytest.approx(4 / 6)
    assert iou(counts) == pytest.approx(2 / 4)
    assert precision(counts) == pytest.approx(2 / 3)
    assert recall(counts) == pytest.approx(2 / 3)


def test_empty_masks() -> None:
    empty, full = np.zeros((20, 20), bool), disc((20, 20), 10, 10, 5)
    both = score_image(empty, empty, min_object_pixels=15, boundary_tolerance=2.0)
    assert [both[name] for name in ("dice", "iou", "precision", "recall", "boundary_f1")] == [1.0] * 5
    assert [both[f"f1_object_{percent}"] for percent in (50, 75, 90)] == [0.0] * 3
    for pred, true in ((empty, full), (full, empty)):
        one = score_image(pred, true, min_object_pixels=15, boundary_tolerance=2.0)
        assert all(one[name] == pytest.approx(0, abs=1e-7) for name in IMAGE_SCORES)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        score_image(np.zeros((4, 5)), np.zeros((5, 4)), min_object_pixels=0, boundary_tolerance=2.0)


@given(MASKS)
def test_overlap_properties(masks: tuple[np.ndarray, np.ndarray]) -> None:
    pred, true = masks
    counts, swapped = pixel_counts(pred, true), pixel_counts(true, pred)
    assert dice(counts) == dice(swapped) and iou(counts) == iou(swapped)
    assert precision(counts) == recall(swapped)
    assert iou(counts) <= dice(counts) + 1e-12
    if counts.tp:
        # Dice and IoU order predictions alike: D = 2 J / (1 + J).
        assert dice(counts) == pytest.approx(2 * iou(counts) / (1 + iou(counts)), rel=1e-5)


def test_summary_pools_counts_and_averages_images() -> None:
    small = score_image(np.eye(4) > 0, np.ones((4, 4)) > 0, min_object_pixels=0, boundary_tolerance=2.0)
    large = score_image(np.ones((8, 8)) > 0, np.ones((8, 8)) > 0, min_object_pixels=0, boundary_tolerance=2.0)
    summary = summarise([small, large])
    assert summary["dice"] == pytest.approx((8 / 20 + 1) / 2)
    assert summary["f1_pixel"] == pytest.approx(2 * 68 / (2 * 68 + 12))
    with pytest.raises(ValueError, match="no image"):
        summarise([])


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 1.5, 2.0, 5.0, 6.5, 9.0])
def test_within_equals_the_distance_transform(tolerance: float) -> None:
    points = np.random.default_rng(3).random((37, 41)) > 0.985
    expected = ndimage.distance_transform_edt(~points) <= tolerance
    np.testing.assert_array_equal(within(points, tolerance), expected)
    assert not within(np.zeros((5, 5), bool), tolerance).any()


def test_boundary_is_the_rim_and_not_the_frame() -> None:
    mask = np.zeros((6, 7), bool)
    mask[0:4, 0:4] = True
    expected = np.zeros_like(mask)
    expected[3, 0:4] = expected[0:4, 3] = True
    np.testing.assert_array_equal(boundary(mask), expected)
    assert not boundary(np.ones((5, 5), bool)).any()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_boundary_is_the_inner_boundary_of_scikit_image(share: float) -> None:
    mask = np.random.default_rng(4).random((37, 41)) < share
    np.testing.assert_array_equal(boundary(mask), find_boundaries(mask, connectivity=1, mode="inner"))


def test_boundary_f1_falls_with_the_shift() -> None:
    true = disc((60, 60), 30, 30, 12)
    scores = [boundary_f1(disc((60, 60), 30, 30 + shift, 12), true, 2.0) for shift in (0, 1, 2, 4, 8)]
    assert scores[:3] == [1.0, 1.0, 1.0]
    assert 1 > scores[3] > scores[4] > 0


@pytest.mark.parametrize(("ground", "particle"), [(60, 190), (190, 60)])
def test_otsu_finds_particles_of_both_polarities(ground: int, particle: int) -> None:
    rng = np.random.default_rng(0)
    true = disc((80, 90), 40, 40, 18) | disc((80, 90), 30, 70, 9)
    image = np.clip(np.where(true, particle, ground) + rng.normal(0, 12, true.shape), 0, 255).astype(np.uint8)
    assert dice(pixel_counts(otsu(image), true)) > 0.99


def test_otsu_of_a_flat_image_and_of_bad_input() -> None:
    assert not otsu(np.full((9, 9), 7, np.uint8)).any()
    with pytest.raises(ValueError, match="uint8"):
        otsu(np.zeros((9, 9)))


@pytest.mark.real
def test_otsu_on_micrographs_is_as_documented(emps: Path, emps_facts: EmpsFacts | None) -> None:
    """The polarity rule must keep its worth on real micrographs: mean Dice 0.67 (see `otsu`)."""
    found, without_the_rule = [], []
    for path in sorted((emps / "images").glob("*.png")):
        with Image.open(path) as image, Image.open(emps / "segmaps" / path.name) as truth:
            pred, true = otsu(np.asarray(image.convert("L"))), np.asarray(truth) > 0
        found.append(dice(pixel_counts(pred, true)))
        without_the_rule.append(dice(pixel_counts(~pred, true)))
    assert np.mean(found) > np.mean(without_the_rule) + 0.1
    if emps_facts is not None:
        assert np.mean(found) == pytest.approx(emps_facts.otsu_dice, abs=0.005)
