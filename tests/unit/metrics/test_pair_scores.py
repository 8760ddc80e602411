"""Scores of a generated image beside its real partner: values by hand, and what brightness alone explains."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.metrics.pair_scores import grey_distances, match_greys, radial_spectrum, score_pair, spectrum_distance

RNG = np.random.default_rng(0)
REAL = RNG.integers(40, 160, (48, 64)).astype(np.uint8)
MASK = (np.mgrid[:48, :64][1] > 30).astype(np.uint8)


def test_a_copy_is_perfect() -> None:
    found = score_pair(REAL, REAL, MASK)
    assert found.pop("ssim") == pytest.approx(1)
    assert all(value == pytest.approx(0, abs=1e-9) for value in found.values())
    assert len(found) == 5


def test_a_brighter_copy_differs_by_its_brightness_until_it_is_matched() -> None:
    found = grey_distances(REAL + np.uint8(30), REAL, MASK)
    assert found["grey_inside"] == pytest.approx(30) and found["grey_outside"] == pytest.approx(30)
    assert found["grey_inside_matched"] == pytest.approx(0, abs=1e-9)


def test_a_swap_of_inside_and_outside_is_no_matter_of_brightness() -> None:
    real = np.where(MASK, 200, 50).astype(np.uint8)
    found = grey_distances(250 - real, real, MASK)
    assert found["grey_inside"] == pytest.approx(150) and found["grey_inside_matched"] > 100


def test_a_region_without_pixels_has_no_score() -> None:
    found = grey_distances(REAL, REAL, np.zeros_like(MASK))
    assert np.isnan(found["grey_inside"]) and found["grey_outside"] == 0
    assert match_greys(np.full((4, 4), 7, np.uint8), REAL).mean() == pytest.approx(REAL.mean())


def test_the_power_of_a_wave_stands_at_its_frequency() -> None:
    columns = np.mgrid[:64, :64][1]
    wave = np.rint(128 + 60 * np.sin(2 * np.pi * 9 * columns / 64)).astype(np.uint8)
    power = radial_spectrum(wave)
    assert len(power) == 32 and power.argmax() + 1 == 9
    flat = np.full((64, 64), 128, np.uint8)
    assert spectrum_distance(wave, wave) == 0 and spectrum_distance(flat, wave) > 0.1
    noise = RNG.normal(size=(64, 64))
    smooth = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    rough, blurred = ((128 + 20 * each).clip(0, 255).astype(np.uint8) for each in (noise, smooth))
    assert spectrum_distance(blurred, rough) > 5 * spectrum_distance(np.rot90(rough).copy(), rough) / 3
