"""What an overlay shows: outlines of numbered particles alone, cut ones otherwise, a bar only with a scale."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.imaging.drawing import PREDICTION
from sage_ray.imaging.particle_overlay import CUT, bar_length, particle_overlay


def labels(shape: tuple[int, int] = (1100, 1200)) -> np.ndarray:
    found = np.zeros(shape, np.uint16)
    found[0:80, 100:200] = 1
    found[300:420, 300:450] = 2
    found[300:420, 450:600] = 3
    return found


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_whole_and_cut_particles_are_drawn_otherwise() -> None:
    image = np.full((1100, 1200), 90, np.uint8)
    picture = particle_overlay(image, labels(), [1])
    assert picture.shape == (1100, 1200, 3)
    blue = (picture == CUT).all(axis=2)
    orange = (picture == PREDICTION).all(axis=2)
    assert blue[:82].sum() == blue.sum() > 0 and orange[290:430].sum() == orange.sum() > 0
    # Dashed: about two thirds of an outline of 80 + 80 + 100 pixels, two thick; the frame is no edge.
    assert 260 < blue.sum() < 480
    # The line between two particles that touch is drawn.
    assert orange[360, 440:460].any()
    none = particle_overlay(image, np.zeros_like(labels()))
    assert (none == 90).all()


def test_numbers_are_drawn_where_they_fit() -> None:
    image = np.full((1100, 1200), 90, np.uint8)
    inner = particle_overlay(image, labels(), [1])[320:400, 330:420]
    assert (inner == 255).all(axis=2).any()
    tiny = np.zeros((1100, 1200), np.uint16)
    tiny[50:54, 50:54] = 1
    assert not (particle_overlay(image, tiny) == 255).all(axis=2).any()


def test_a_scale_bar_needs_a_scale_and_has_its_length() -> None:
    image = np.full((1100, 1200), 90, np.uint8)
    picture = particle_overlay(image, np.zeros((1100, 1200), int), nm_per_pixel=0.5)
    dark = (picture == (30, 30, 30)).all(axis=2)
    # 600 nm wide: a bar of 100 nm, 200 pixels.
    runs = {
        int(length) for row in dark[1000:] for length in np.diff(np.flatnonzero(np.diff(np.pad(row, 1).astype(int))))
    }
    assert 200 in runs and 100 not in runs
    assert (particle_overlay(image, np.zeros((1100, 1200), int)) == 90).all()


@pytest.mark.parametrize(
    ("width", "length"), [(600.0, 100.0), (800.0, 200.0), (9.0, 2.0), (4.1e4, 1e4), (2000.0, 500.0)]
)
def test_bars_have_round_lengths(width: float, length: float) -> None:
    assert bar_length(width) == pytest.approx(length)


def test_small_pictures_are_enlarged() -> None:
    picture = particle_overlay(np.zeros((64, 80), np.uint8), np.ones((64, 80), int))
    assert picture.shape == (64 * 16, 80 * 16, 3) and count(picture, PREDICTION) == 0
