"""Outlines of particles hold exactly the particles' pixels, holes and corners included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import polygon2mask

from sage_ray.imaging.outlines import label_outlines, outline_of
from sage_ray.imaging.particles import particle_table
from sage_ray.imaging.tiles import ArraySource

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


def held(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres a polygon of x and y encloses by the even-odd rule."""
    return np.asarray(polygon2mask(shape, outline[:, ::-1] - 0.5))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_an_outline_holds_the_pixels_of_its_particle(mask: np.ndarray) -> None:
    labels, number = ndimage.label(mask)
    for label in range(1, number + 1):
        inside = labels == label
        outline = outline_of(inside)
        np.testing.assert_array_equal(held(outline, mask.shape), inside)
        # Corners alone, each side along an axis.
        steps = np.roll(outline, -1, axis=0) - outline
        assert ((steps == 0).sum(axis=1) == 1).all()
    if mask.any():  # pieces that lie apart are joined too
        np.testing.assert_array_equal(held(outline_of(mask), mask.shape), mask)


def test_a_rectangle_has_four_corners_and_a_hole_is_joined_by_a_cut() -> None:
    inside = np.ones((4, 6), bool)
    assert sorted(map(tuple, outline_of(inside).tolist())) == [(0, 0), (0, 4), (6, 0), (6, 4)]
    inside[2, 3] = False
    # Four corners, four of the hole, and the upper end of the cut twice; its lower end is a corner of the hole.
    assert len(outline_of(inside)) == 10
    with pytest.raises(ValueError, match="without pixels"):
        outline_of(np.zeros((3, 3), bool))


def test_outlines_of_a_label_image_are_read_in_bands() -> None:
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.normal(size=(700, 90)), 3) > 0.05
    labels = ndimage.label(mask)[0].astype(np.uint16)
    table = particle_table(mask)
    again = np.zeros_like(labels)
    for label, outline in label_outlines(ArraySource(labels, band_rows=64), table):
        again[held(outline, labels.shape)] = label
    np.testing.assert_array_equal(again, labels)
    assert labels.max() > 50 and table.box_height_px.max() > 64
