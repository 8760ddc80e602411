"""Particles that touch are told apart, convex ones stay whole, and the result is the watershed from h-maxima."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction

from sage_ray.errors import UserError
from sage_ray.imaging.splitting import NECK, SLACK_PIXELS, background_distance, check_split, split_mask

BLOBS = st.tuples(st.integers(2, 7), st.integers(2, 7)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1, width=16))
)


def blob(coarse: np.ndarray) -> np.ndarray:
    """A smooth random mask."""
    return np.asarray(ndimage.zoom(coarse, 5, order=1) > 0.5)


def disc(side: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


@settings(max_examples=60, deadline=None)
@given(
    radius=st.floats(8, 18), share=st.floats(0.75, 1.0), overlap=st.floats(0, 0.2), angle=st.floats(0, math.pi),
    shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)  # fmt: skip
def test_two_discs_that_touch_are_split(
    radius: float, share: float, overlap: float, angle: float, shift: tuple[float, float]
) -> None:
    """Discs that overlap by up to a fifth of the smaller radius; the neck is then up to 0.6 of its diameter."""
    small = radius * share
    apart = (radius + small - overlap * small) / 2
    middle = 40 + shift[0], 40 + shift[1]
    down, across = apart * math.sin(angle), apart * math.cos(angle)
    one, other = (
        disc(80, middle[0] - down, middle[1] - across, radius),
        disc(80, middle[0] + down, middle[1] + across, small),
    )
    labels = split_mask(one | other)
    assert labels.max() == 2
    # Each particle is its disc, but for the lens that both share and the line between them.
    for mask in (one & ~other, other & ~one):
        mine = np.bincount(labels[mask])
        assert mine.max() >= 0.95 * mask.sum()


@settings(max_examples=80, deadline=None)
@given(
    long=st.floats(3, 30), share=st.floats(0.1, 1), angle=st.floats(0, math.pi), rectangle=st.booleans(),
    shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)  # fmt: skip
def test_ellipses_and_rectangles_stay_whole(
    long: float, share: float, angle: float, rectangle: bool, shift: tuple[float, float]
) -> None:
    """Down to 6 pixels of width, at any angle."""
    short = max(long * share, 3)
    rows, columns = np.mgrid[:100, :100] - 50.0
    rows, columns = rows + shift[0], columns + shift[1]
    along, across = (
        rows * math.cos(angle) + columns * math.sin(angle),
        columns * math.cos(angle) - rows * math.sin(angle),
    )
    along, across = np.abs(along) / long, np.abs(across) / short
    mask = np.maximum(along, across) <= 1 if rectangle else along**2 + across**2 <= 1
    assert split_mask(mask).max() == 1


@settings(max_examples=60, deadline=None)
@given(BLOBS)
def test_particles_are_connected_cover_the_mask_and_lie_in_one_component(coarse: np.ndarray) -> None:
    mask = blob(coarse)
    labels = split_mask(mask)
    assert np.array_equal(labels > 0, mask)
    components, _ = ndimage.label(mask)
    for label in range(1, labels.max() + 1):
        assert ndimage.label(labels == label)[1] == 1
        assert len(np.unique(components[labels == label])) == 1
    firsts = [np.flatnonzero(labels == label)[0] for label in range(1, labels.max() + 1)]
    assert firsts == sorted(firsts)


@settings(max_examples=60, deadline=None)
@given(BLOBS, st.sampled_from([0.5, NECK, 0.9]))
def test_there_is_one_particle_for_each_h_maximum_of_the_log_distance(coarse: np.ndarray, neck: float) -> None:
    mask = blob(coarse)
    if mask.all() or not mask.any():
        return
    logs = np.where(mask, np.log(background_distance(mask).astype(float) + SLACK_PIXELS), -9)
    cross = ndimage.generate_binary_structure(2, 1)
    # Peaks whose dynamic is exactly h are decided by rounding; a little less of h keeps them, as ours does.
    lowered = reconstruction(logs + math.log(neck) + 1e-6, logs, footprint=cross)
    peaks = local_maxima(np.pad(lowered, 1, constant_values=-20), connectivity=1)[1:-1, 1:-1].astype(bool) & mask
    assert split_mask(mask, neck=neck).max() == ndimage.label(peaks)[1]


def test_specks_are_not_split_off() -> None:
    mask = disc(60, 30, 25, 12) | disc(60, 30, 42, 2)
    mask[30, 36:41] = True
    assert split_mask(mask).max() == 2 and split_mask(mask, min_object_pixels=15).max() == 1


@pytest.mark.parametrize("mask", [np.ones((6, 7), bool), np.ones((1, 1), bool), np.ones((1, 9), bool)])
def test_a_mask_without_background_is_one_particle(mask: np.ndarray) -> None:
    assert np.array_equal(split_mask(mask), mask.astype(int))
    assert not split_mask(~mask).any()


def test_an_unknown_way_to_split_is_refused() -> None:
    assert check_split("none") == "none"
    with pytest.raises(UserError, match="choose one of watershed, none"):
        check_split("magic")
