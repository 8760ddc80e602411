from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import regionprops_table

from sage_ray.errors import UserError
from sage_ray.imaging.particles import NM_COLUMNS, PIXEL_COLUMNS, ParticleCounter, particle_table

MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays(bool, shape))


def discs(*given_discs: tuple[float, float, float], shape: tuple[int, int] = (200, 220)) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for row, column, radius in given_discs:
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return mask


def test_discs_are_measured_right() -> None:
    table = particle_table(discs((60, 50, 30), (150, 120, 12.3), (10, 218, 8)), nm_per_pixel=2.5)
    assert list(table.columns) == [*PIXEL_COLUMNS, *NM_COLUMNS]
    assert list(table.label) == [1, 2, 3]
    cut, large, small = (row for _, row in table.iterrows())
    for row, radius, centre in ((large, 30, (60, 50)), (small, 12.3, (150, 120))):
        assert row.equivalent_diameter_px == pytest.approx(2 * radius, rel=0.01)
        assert row.perimeter_px == pytest.approx(2 * np.pi * radius, rel=0.03)
        assert row.circularity > 0.95
        assert (row.centroid_row, row.centroid_column) == pytest.approx(centre)
        assert not row.touches_border
    assert cut.touches_border
    assert large.area_nm2 == pytest.approx(large.area_px * 6.25)
    assert large.equivalent_diameter_nm == pytest.approx(150, rel=0.01)


def test_long_particles_are_less_circular() -> None:
    mask = np.zeros((60, 200), bool)
    mask[10:20, 10:110] = True
    row = particle_table(mask).iloc[0]
    assert row.circularity == pytest.approx(4 * np.pi * 1000 / 220**2, rel=0.15)


@settings(max_examples=80, deadline=None)
@given(MASKS)
def test_agrees_with_skimage(mask: np.ndarray) -> None:
    labels, number = ndimage.label(mask)
    table = particle_table(mask)
    assert list(table.label) == list(range(1, number + 1))
    names = ("area", "centroid", "equivalent_diameter_area", "perimeter_crofton")
    expected = regionprops_table(labels, properties=names)
    np.testing.assert_array_equal(table.area_px, expected["area"])
    np.testing.assert_allclose(table.centroid_row, expected["centroid-0"])
    np.testing.assert_allclose(table.centroid_column, expected["centroid-1"])
    np.testing.assert_allclose(table.equivalent_diameter_px, expected["equivalent_diameter_area"])
    # Only where a particle meets itself at a corner do the perimeters differ, as two pieces have more of it than one.
    alone = [not meets_itself(labels == label) for label in range(1, number + 1)]
    np.testing.assert_allclose(table.perimeter_px[alone], expected["perimeter_crofton"][alone])
    frame = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    np.testing.assert_array_equal(table.touches_border, np.isin(np.arange(1, number + 1), frame))


def meets_itself(particle: np.ndarray) -> bool:
    a, b, c, d = particle[:-1, :-1], particle[:-1, 1:], particle[1:, :-1], particle[1:, 1:]
    return bool(((a & d & ~b & ~c) | (b & c & ~a & ~d)).any())


@settings(max_examples=60, deadline=None)
@given(MASKS, st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_bands_give_the_table_of_the_whole(mask: np.ndarray, heights: list[int]) -> None:
    counter, row = ParticleCounter(mask.shape[1]), 0
    for height in [*heights, mask.shape[0]]:
        counter.add(mask[row : row + height])
        row = min(row + height, mask.shape[0])
    streamed, whole = counter.table(nm_per_pixel=3.0), particle_table(mask, nm_per_pixel=3.0)
    assert list(streamed.columns) == list(whole.columns)
    for name in whole.columns:
        np.testing.assert_allclose(streamed[name], whole[name], err_msg=name)


def test_a_spiral_is_one_particle_in_any_bands() -> None:
    """Arms that meet only far below must be joined across many bands."""
    mask = np.zeros((60, 61), bool)
    mask[:, ::2] = True
    mask[-1] = True
    mask[5:40, 30] = False
    counter = ParticleCounter(61)
    for row in range(0, 60, 7):
        counter.add(mask[row : row + 7])
    table = counter.table()
    assert len(table) == 2 and table.area_px.sum() == mask.sum()
    assert list(table.area_px) == list(particle_table(mask).area_px)


def test_small_particles_are_left_out_and_labels_stay_without_gaps() -> None:
    mask = discs((50, 50, 20), (100, 100, 1), (150, 150, 15))
    table = particle_table(mask, min_object_pixels=15)
    assert list(table.label) == [1, 2] and table.area_px.min() > 600


def test_empty_mask_has_an_empty_table() -> None:
    table = particle_table(np.zeros((30, 40), bool), nm_per_pixel=1.0)
    assert table.empty and list(table.columns) == [*PIXEL_COLUMNS, *NM_COLUMNS]


@pytest.mark.parametrize("nm_per_pixel", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_pixel_sizes_are_refused(nm_per_pixel: float) -> None:
    with pytest.raises(UserError, match="nm_per_pixel"):
        particle_table(discs((50, 50, 20)), nm_per_pixel=nm_per_pixel)


def test_bands_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="40 columns"):
        ParticleCounter(40).add(np.ones((3, 41)))
    with pytest.raises(ValueError, match="rows and columns"):
        particle_table(np.ones((3, 4, 5)))
