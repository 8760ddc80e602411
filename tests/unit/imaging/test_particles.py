from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import regionprops_table

from sage_ray.errors import UserError
from sage_ray.imaging.particle_columns import NM_COLUMNS, PIXEL_COLUMNS
from sage_ray.imaging.particles import particle_table

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
    names = ("area", "centroid", "equivalent_diameter_area", "perimeter_crofton", "bbox")
    expected = regionprops_table(labels, properties=names)
    np.testing.assert_array_equal(table.area_px, expected["area"])
    np.testing.assert_allclose(table.centroid_row, expected["centroid-0"])
    np.testing.assert_allclose(table.centroid_column, expected["centroid-1"])
    np.testing.assert_allclose(table.equivalent_diameter_px, expected["equivalent_diameter_area"])
    np.testing.assert_array_equal(table.box_row, expected["bbox-0"])
    np.testing.assert_array_equal(table.box_column, expected["bbox-1"])
    np.testing.assert_array_equal(table.box_row + table.box_height_px, expected["bbox-2"])
    np.testing.assert_array_equal(table.box_column + table.box_width_px, expected["bbox-3"])
    # Only where a particle meets itself at a corner do the perimeters differ, as two pieces have more of it than one.
    alone = [not meets_itself(labels == label) for label in range(1, number + 1)]
    np.testing.assert_allclose(table.perimeter_px[alone], expected["perimeter_crofton"][alone])
    frame = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    np.testing.assert_array_equal(table.touches_border, np.isin(np.arange(1, number + 1), frame))


def meets_itself(particle: np.ndarray) -> bool:
    a, b, c, d = particle[:-1, :-1], particle[:-1, 1:], particle[1:, :-1], particle[1:, 1:]
    return bool(((a & d & ~b & ~c) | (b & c & ~a & ~d)).any())


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


def test_a_mask_of_three_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        particle_table(np.ones((3, 4, 5)))


def ellipse(long: float, short: float, degrees: float, side: int = 160) -> np.ndarray:
    """Mask of an ellipse with these semi-axes, its long one turned counter-clockwise from the rows."""
    rows, columns = np.mgrid[:side, :side] - side / 2 + 0.5
    angle = np.radians(degrees)
    along, across = columns * np.cos(angle) - rows * np.sin(angle), columns * np.sin(angle) + rows * np.cos(angle)
    return np.asarray((along / long) ** 2 + (across / short) ** 2 <= 1)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135, 170])
def test_an_ellipse_has_its_axes_feret_diameters_and_angle(degrees: float) -> None:
    row = particle_table(ellipse(60, 20, degrees)).iloc[0]
    assert row.major_axis_px == pytest.approx(120, rel=0.005) and row.minor_axis_px == pytest.approx(40, rel=0.005)
    # Pixels are squares, so that a caliper meets their corners: up to a diagonal more than the drawn line.
    assert 120 - 0.5 <= row.feret_max_px <= 120 + 1.5 and 40 - 0.5 <= row.feret_min_px <= 40 + 1.5
    assert row.aspect_ratio == pytest.approx(3, rel=0.005)
    assert row.eccentricity == pytest.approx(np.sqrt(8) / 3, abs=0.002)
    assert min(abs(row.orientation_deg - degrees), 180 - abs(row.orientation_deg - degrees)) < 0.3
    assert row.solidity == 1 and row.holes == 0


def test_a_rectangle_has_exact_feret_diameters() -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:20, 15:45] = True
    row = particle_table(mask, nm_per_pixel=0.5).iloc[0]
    assert row.feret_max_px == pytest.approx(np.hypot(10, 30)) and row.feret_min_px == 10
    assert row.feret_max_nm == pytest.approx(np.hypot(5, 15)) and row.feret_min_nm == 5
    assert row.major_axis_px == pytest.approx(30 * 4 / np.sqrt(12)) and row.orientation_deg == 0
    mask[12:18, 15:42] = False
    row = particle_table(mask).iloc[0]
    # A U: all pixels of the rectangle are in its hull.
    assert row.solidity == pytest.approx((300 - 6 * 27) / 300) and row.holes == 0
    mask[12:18, 15] = True
    assert particle_table(mask).iloc[0].holes == 1


def test_one_pixel_and_a_line_have_finite_measures() -> None:
    mask = np.zeros((5, 12), bool)
    mask[1, 1] = True
    mask[3, 2:10] = True
    dot, line = (row for _, row in particle_table(mask).iterrows())
    assert dot.feret_max_px == pytest.approx(np.sqrt(2)) and dot.feret_min_px == 1 and dot.solidity == 1
    assert dot.aspect_ratio == 1 and dot.eccentricity == 0
    assert line.feret_max_px == pytest.approx(np.hypot(8, 1)) and line.feret_min_px == 1 and line.solidity == 1
    assert np.isfinite(particle_table(mask).to_numpy(float)).all()


def test_pixels_that_are_no_squares_are_measured_in_the_sample() -> None:
    """A disc of 40 nm radius, imaged with pixels 2 nm high and 1 nm wide, is a disc."""
    rows, columns = np.mgrid[:60, :120]
    mask = ((rows - 30) * 2.0) ** 2 + (columns - 60.0) ** 2 <= 40**2
    row = particle_table(mask, nm_per_pixel=(2.0, 1.0)).iloc[0]
    assert row.equivalent_diameter_nm == pytest.approx(80, rel=0.01)
    assert row.major_axis_nm == pytest.approx(80, rel=0.01) and row.minor_axis_nm == pytest.approx(80, rel=0.01)
    assert row.perimeter_nm == pytest.approx(80 * np.pi, rel=0.03)
    assert row.feret_max_nm == pytest.approx(80, abs=2.5) and row.feret_min_nm == pytest.approx(80, abs=2.5)
    assert row.aspect_ratio < 1.02 and row.circularity > 0.95
    assert row.major_axis_px == pytest.approx(80, rel=0.02) and row.minor_axis_px == pytest.approx(40, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(MASKS)
def test_hull_and_ellipse_agree_with_skimage(mask: np.ndarray) -> None:
    labels, _ = ndimage.label(mask)
    table = particle_table(mask)
    names = ("axis_major_length", "axis_minor_length", "orientation", "euler_number", "feret_diameter_max")
    expected = regionprops_table(labels, properties=names)
    # skimage takes pixels for points: 1/12 less in each second moment, 16/12 in each squared axis.
    np.testing.assert_allclose(table.major_axis_px**2 - 4 / 3, expected["axis_major_length"] ** 2, atol=1e-6)
    np.testing.assert_allclose(table.minor_axis_px**2 - 4 / 3, expected["axis_minor_length"] ** 2, atol=1e-6)
    long = (table.aspect_ratio > 1.01).to_numpy()
    apart = np.abs((90 + np.degrees(expected["orientation"])) % 180 - table.orientation_deg)[long]
    assert (np.minimum(apart, 180 - apart) < 1e-6).all()
    # Its outline goes through the middles of pixel sides, ours through their corners.
    difference = table.feret_max_px - expected["feret_diameter_max"]
    assert ((difference > -1e-6) & (difference < 1.5)).all()
    for label in range(1, labels.max() + 1):
        ours = table.iloc[label - 1]
        background, holes = ndimage.label(np.pad(labels == label, 1) == 0, np.ones((3, 3)))
        assert ours.holes == holes - 1, background
        assert ours.solidity == pytest.approx(ours.area_px / hull_pixels(labels == label))
        assert 1 <= ours.feret_min_px <= ours.feret_max_px + 1e-9


def hull_pixels(particle: np.ndarray) -> int:
    """Pixels whose centres lie in the convex hull, each tested against every line through two pixels."""
    points = np.argwhere(particle)
    everywhere = np.argwhere(np.ones_like(particle))
    inside = np.ones(len(everywhere), bool)
    for one in points:
        for other in points:
            down, across = other - one
            side = (points - one) @ (across, -down)
            if (side <= 0).all() and (one != other).any():
                inside &= (everywhere - one) @ (across, -down) <= 0
                if (side == 0).all():
                    low, high = points.min(axis=0), points.max(axis=0)
                    inside &= ((everywhere >= low) & (everywhere <= high)).all(axis=1)
    return int(inside.sum()) if len(points) > 1 else 1
