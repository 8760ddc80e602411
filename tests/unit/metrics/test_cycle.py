"""Cycle fidelity by planted truth: a copier, a generator that ignores its mask, a pair that colludes."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.metrics.cycle import cycle_scores, dice_table, own_dice


@pytest.fixture
def masks() -> np.ndarray:
    """Twelve masks of a disc each, at random places."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    places = rng.uniform(14, 34, (12, 2))
    return np.array([(rows - y) ** 2 + (columns - x) ** 2 < 90 for y, x in places])


def shifted(masks: np.ndarray, pixels: int) -> np.ndarray:
    return np.roll(masks, pixels, axis=-1)


def test_dice_by_hand() -> None:
    first = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], bool)
    second = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]], bool)
    assert dice_table(first, second) == pytest.approx(np.array([[2 / 3, 0], [0, 1]]))
    assert own_dice(first, second) == pytest.approx([2 / 3, 1])


def test_a_generator_that_copies_the_real_partner_has_fidelity_equal_to_the_ceiling(masks: np.ndarray) -> None:
    judged = shifted(masks, 1)  # the judge errs as it does on the real image
    found = cycle_scores(masks, np.repeat(judged[:, None], 3, 1), judged, np.repeat(masks[:, None], 3, 1), masks)
    assert np.array_equal(found["fidelity"], found["ceiling"]) and found["fidelity"].max() < 1
    # An own segmenter that is better on both alike does not collude.
    assert found["collusion"] == pytest.approx(np.zeros((12, 3)))
    assert (found["null"] < found["fidelity"]).all()


def test_a_generator_that_ignores_its_mask_has_fidelity_equal_to_the_null(masks: np.ndarray) -> None:
    always = np.repeat(masks[3:4], 12, 0)
    found = cycle_scores(masks, always[:, None], masks)
    assert found["fidelity"].mean() == pytest.approx(found["null"].mean())
    assert "collusion" not in found and (found["ceiling"] == 1).all()


def test_a_pair_that_agrees_on_masks_shifted_by_5_pixels_colludes(masks: np.ndarray) -> None:
    drawn = shifted(masks, 5)[:, None]  # what the generator draws, and an independent judge sees
    found = cycle_scores(masks, drawn, masks, masks[:, None], masks)  # its own segmenter shifts it back
    expected = 1 - own_dice(shifted(masks, 5), masks)
    assert found["collusion"][:, 0] == pytest.approx(expected) and found["collusion"].min() > 0.2
    honest = cycle_scores(masks, drawn, masks, drawn, masks)
    assert honest["collusion"] == pytest.approx(np.zeros((12, 1)))


def test_crops_of_the_same_micrograph_are_no_other_mask(masks: np.ndarray) -> None:
    groups = ["a"] * 6 + ["b"] * 6
    found = cycle_scores(masks, masks[:, None], masks, groups=groups)
    table = dice_table(masks, masks)
    assert found["null"][0, 0] == pytest.approx(table[0, 6:].mean())
    with pytest.raises(ValueError, match="no other mask"):
        cycle_scores(masks, masks[:, None], masks, groups=["a"] * 12)
