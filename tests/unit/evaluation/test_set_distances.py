"""Distances of made pairs from real images: copies of one mask count once, as crops of one micrograph do."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.evaluation.generation_scores import set_distances, unpaired_set_distances
from sage_ray.evaluation.image_features import ImageFeatures
from sage_ray.evaluation.run_pairs import mask_groups
from sage_ray.metrics import generation

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (10, 16, 16)).astype(np.uint8)
MADE = RNG.integers(0, 256, (24, 16, 16)).astype(np.uint8)
MASKS = RNG.random((24, 16, 16)) > 0.5
FEATURES = ImageFeatures("corners", lambda images: images[:, :3, :3].reshape(len(images), -1) / 128 - 1.0)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PERMUTATIONS", 99)
    monkeypatch.setattr(generation, "SUBSAMPLES", 50)


def test_masks_are_grouped_by_what_they_show() -> None:
    assert mask_groups(MASKS) is None
    names = mask_groups(np.concatenate([MASKS[:3], MASKS[:1]]))
    assert names is not None and names[0] == names[3] and len(set(names)) == 3


def test_copies_count_once_in_the_mmd() -> None:
    real, words = (REAL, MASKS[:10]), {"images": "10 real images", "pairs": "24 pairs"}
    plain = unpaired_set_distances(FEATURES, real, (MADE, MASKS), None, **words)
    assert plain.mmd.num_groups == 34 and plain.frechet.images == 5
    copies = unpaired_set_distances(
        FEATURES, (np.repeat(REAL, 2, 0), np.repeat(MASKS[:10], 2, 0)),
        (np.repeat(MADE, 3, 0), np.repeat(MASKS, 3, 0)), [str(n) for n in np.repeat(np.arange(10), 2)],
        mask_groups(np.repeat(MASKS, 3, 0)), **words,
    )  # fmt: skip
    assert copies.mmd.num_groups == 34 and copies.mmd.value == pytest.approx(plain.mmd.value)
    assert copies.summaries == pytest.approx(plain.summaries)
    assert plain.definitions["mmd"].endswith("10 real images, 24 pairs, at 16x16 pixels")


def test_a_generator_that_copies_is_at_no_distance_and_stands_beside_real_halves() -> None:
    found = set_distances(FEATURES, REAL, np.repeat(REAL[:, None], 3, 1), MASKS[:10], None, images="10 real images")
    assert found.mmd.value == pytest.approx(0, abs=1e-9) and found.mmd.p_value == 1
    assert all(value == pytest.approx(0, abs=1e-9) for value in found.summaries.values())
    assert found.summaries_of_halves["set_spectrum"] > 0
    far = set_distances(FEATURES, REAL // 2, (REAL // 2)[:, None] + np.uint8(128), MASKS[:10], None, images="x")
    assert far.mmd.p_value == 0.01 and far.mmd.value > 0 and far.summaries["set_inside"] == pytest.approx(128)
