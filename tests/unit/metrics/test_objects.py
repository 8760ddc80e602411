from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import contingency_table

from sage_ray.metrics import objects
from sage_ray.metrics.objects import (
    InstanceScore,
    iou_table,
    label_objects,
    match_objects,
    object_overlaps,
    overlap_counts,
    score_instances,
    score_objects,
)

LABELS = arrays(np.uint8, (6, 7), elements=st.integers(0, 4))


def discs(shape: tuple[int, int], number: int, seed: int) -> np.ndarray:
    rng, mask = np.random.default_rng(seed), np.zeros(shape, bool)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for _ in range(number):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(6, 18)
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return mask


def best_by_trying_all(table: np.ndarray, threshold: float) -> tuple[int, float]:
    """Greatest (number of pairs with IoU >= threshold, their summed IoU) over every one-to-one assignment."""
    if table.shape[0] > table.shape[1]:
        table = table.T
    options = itertools.permutations(range(table.shape[1]), table.shape[0])
    scores = [table[np.arange(table.shape[0]), list(option)] for option in options]
    return max((int((s >= threshold).sum()), round(float(s[s >= threshold].sum()), 9)) for s in scores)


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS, st.sampled_from([0.01, 0.1, 0.25, 0.4, 0.5, 0.75]))
def test_matching_is_optimal(true: np.ndarray, pred: np.ndarray, threshold: float) -> None:
    overlaps = object_overlaps(true, pred)
    matched = match_objects(overlaps, threshold)
    assert len(set(overlaps.true[matched])) == len(set(overlaps.pred[matched])) == matched.size
    table = iou_table(true, pred)[1:, 1:]
    number, total = best_by_trying_all(table, threshold) if min(table.shape) else (0, 0.0)
    assert (matched.size, float(overlaps.iou[matched].sum())) == (number, pytest.approx(total))


@given(LABELS, LABELS)
def test_many_labels_give_what_the_table_gives(true: np.ndarray, pred: np.ndarray) -> None:
    expected = object_overlaps(true, pred)
    limit, objects.DENSE_PAIRS = objects.DENSE_PAIRS, 0
    try:
        actual = object_overlaps(true, pred)
    finally:
        objects.DENSE_PAIRS = limit
    np.testing.assert_array_equal(actual.true, expected.true)
    np.testing.assert_array_equal(actual.pred, expected.pred)
    np.testing.assert_array_equal(actual.iou, expected.iou)


@given(LABELS, LABELS)
def test_overlaps_are_the_contingency_table_of_scikit_image(true: np.ndarray, pred: np.ndarray) -> None:
    table = contingency_table(true, pred).toarray()
    rows, columns = np.nonzero(table)
    for found, expected in zip(overlap_counts(true, pred), (rows, columns, table[rows, columns]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sixteen_bit_labels_do_not_overflow() -> None:
    true = np.zeros((40, 40), np.uint16)
    true[2:10, 2:10], true[20:30, 20:30] = 65535, 40000
    scores = score_objects(true, true)
    assert scores[0.9].matched == 2 and scores[0.9].fscore == pytest.approx(1, abs=2e-6)


def test_objects_under_the_minimum_are_removed() -> None:
    mask = np.zeros((20, 40), bool)
    mask[2:5, 2:7] = True
    mask[10:12, 2:9] = True
    mask[2, 20], mask[3, 21] = True, True
    kept = label_objects(mask, 15)
    assert kept.max() == 1 and np.count_nonzero(kept) == 15
    assert label_objects(mask, 16).max() == 0
    assert label_objects(mask, 14).max() == 2
    assert label_objects(mask).max() == 4, "diagonal neighbours are two objects"
    assert label_objects(np.zeros((3, 3), bool), 15).max() == 0


def test_iou_of_exactly_the_threshold_is_a_miss() -> None:
    true, pred = np.zeros((10, 30), int), np.zeros((10, 30), int)
    true[0:5, 0:12], pred[0:5, 4:16] = 1, 1
    assert iou_table(true, pred)[1, 1] == pytest.approx(0.5)
    assert score_objects(true, pred)[0.5].matched == 0
    pred[0:5, 15] = 0
    assert score_objects(true, pred)[0.5].matched == 1


def test_counts_by_hand() -> None:
    true, pred = np.zeros((20, 20), int), np.zeros((20, 20), int)
    true[0:4, 0:4], true[8:12, 8:12], true[16:20, 0:4] = 1, 2, 3
    pred[0:4, 0:4], pred[8:12, 9:12] = 5, 9
    score = score_objects(true, pred)[0.5]
    assert (score.matched, score.precision, score.recall) == (2, pytest.approx(1), pytest.approx(2 / 3))
    assert score.fscore == pytest.approx(0.8)
    assert score_objects(true, pred)[0.75].matched == 1


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        score_objects(np.zeros((3, 4), int), np.zeros((4, 3), int))


def test_matching_a_full_size_image_takes_less_than_10_ms() -> None:
    true, pred = discs((512, 768), 140, 0), np.roll(discs((512, 768), 140, 0), 2, axis=1)

    def once() -> float:
        # CPU time: other processes on the machine must not fail it.
        start = time.thread_time()
        score_objects(label_objects(true, 15), label_objects(pred, 15))
        return time.thread_time() - start

    assert label_objects(true, 15).max() > 40
    assert min(once() for _ in range(40)) < 0.010


def blocks(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Labels 1..n of rectangles (top, left, rows, columns) in a field of 40 x 60."""
    labels = np.zeros((40, 60), np.uint16)
    for number, (top, left, rows, columns) in enumerate(corners, 1):
        labels[top : top + rows, left : left + columns] = number
    return labels


def test_instances_of_a_perfect_and_of_a_joined_prediction() -> None:
    true = blocks((5, 5, 10, 10), (5, 15, 10, 10), (25, 30, 8, 8))
    assert score_instances(true, true) == InstanceScore(1.0, 0.0, 0.0, 3, 3)
    # Two that touch, taken for one: it has IoU 0.5 - 1e-6 with each, a miss.
    joined = score_instances(true, label_objects(true > 0))
    assert joined.num_pred == 2 and joined.count_error == pytest.approx(-1 / 3)
    assert joined.average_precision == pytest.approx(1 / (2 + 3 - 1))
    diameters = np.sqrt([200, 64]).mean() / np.sqrt([100, 100, 64]).mean()
    assert joined.size_bias == pytest.approx(diameters - 1)


def test_instances_leave_out_specks_and_answer_for_empty_images() -> None:
    true = blocks((5, 5, 10, 10), (30, 30, 2, 2))
    assert score_instances(true, blocks((5, 5, 10, 10)), min_object_pixels=15).average_precision == 1
    assert score_instances(true, blocks((5, 5, 10, 10))).average_precision == 0.5
    none = blocks()
    empty = score_instances(none, none)
    assert empty.average_precision == 1 and empty.count_error == 0 and np.isnan(empty.size_bias)
    invented = score_instances(none, true)
    assert invented.average_precision == 0 and invented.count_error == 2 and np.isnan(invented.size_bias)
