"""Distances of sets without features: equal sets, a brighter set, a swap of inside and outside, a missing region."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.metrics.definitions import SET_LABELS, SET_SUMMARIES
from sage_ray.metrics.set_scores import set_summaries

RNG = np.random.default_rng(0)
MASKS = np.repeat((np.mgrid[:32, :32][1] > 15)[None], 5, 0)
IMAGES = np.where(MASKS, 160, 80).astype(np.uint8) + RNG.integers(0, 20, (5, 32, 32)).astype(np.uint8)


def test_equal_sets_in_another_order_and_number_are_at_no_distance() -> None:
    found = set_summaries(np.concatenate([IMAGES[::-1]] * 2), np.concatenate([MASKS] * 2), IMAGES, MASKS)
    assert set(found) == set(SET_SUMMARIES) == set(SET_LABELS)
    assert all(value == pytest.approx(0, abs=1e-9) for value in found.values())


def test_a_brighter_set_differs_by_its_brightness_until_it_is_matched() -> None:
    found = set_summaries(IMAGES + np.uint8(30), MASKS, IMAGES, MASKS)
    assert found["set_inside"] == pytest.approx(30) and found["set_outside"] == pytest.approx(30)
    assert found["set_inside_matched"] == pytest.approx(0, abs=1e-9)
    assert found["set_spectrum"] == pytest.approx(0, abs=1e-9)


def test_masks_of_other_sizes_do_not_matter_but_a_swap_does() -> None:
    wide = np.repeat((np.mgrid[:32, :32][1] > 7)[None], 5, 0)
    flat = np.where(wide, 160, 80).astype(np.uint8)
    assert set_summaries(flat, wide, np.where(MASKS, 160, 80).astype(np.uint8), MASKS)["set_inside"] == 0
    swapped = set_summaries(np.where(MASKS, 80, 160).astype(np.uint8), MASKS, IMAGES, MASKS)
    assert swapped["set_inside"] > 70 and swapped["set_inside_matched"] > 50


def test_smooth_and_rough_sets_differ_in_their_spectra_and_a_region_without_pixels_has_no_distance() -> None:
    rough = RNG.integers(0, 255, (5, 32, 32)).astype(np.uint8)
    assert set_summaries(IMAGES, MASKS, rough, MASKS)["set_spectrum"] > 0.5
    empty = set_summaries(IMAGES, np.zeros_like(MASKS), IMAGES, MASKS)
    assert np.isnan(empty["set_inside"]) and empty["set_outside"] > 0
