"""A mask that comes in bands has the particles of the whole mask, and its table says what its labels show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from sage_ray.imaging.instances import InstanceStream
from sage_ray.imaging.particles import ParticleMeasures, ParticleTable, particle_table
from sage_ray.imaging.splitting import split_mask

MASKS = st.tuples(st.integers(1, 24), st.integers(1, 14)).flatmap(lambda shape: arrays(bool, shape))
HEIGHTS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def streamed(
    mask: np.ndarray, heights: list[int], split: str, window_rows: int | None = None, grey: np.ndarray | None = None
) -> tuple[ParticleTable, np.ndarray]:
    """The table of a mask that comes in bands of these heights, and its numbers (H,W)."""
    stream = InstanceStream(mask.shape[1], split, window_rows=window_rows)
    measures = ParticleMeasures(mask.shape[1], ("mean_grey",) if grey is not None else (), stream.resolved)
    bands, row = [], 0
    for height in [*heights, mask.shape[0]]:
        part = slice(row, min(row + height, mask.shape[0]))
        bands += list(stream.add(mask[part], *([grey[part]] if grey is not None else [])))
        row = part.stop
    bands += list(stream.finish())
    for band in bands:
        measures.add(*band)
    table = measures.table()
    return table, table.numbers[np.concatenate([band[0] for band in bands])]


def drawn(seed: int, shape: tuple[int, int] = (120, 90)) -> np.ndarray:
    """Discs that touch, in heaps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(45):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 9)
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return mask


@settings(max_examples=60, deadline=None)
@given(MASKS, HEIGHTS, st.sampled_from(["none", "watershed"]))
def test_bands_give_the_table_of_the_whole(mask: np.ndarray, heights: list[int], split: str) -> None:
    table, numbers = streamed(mask, heights, split)
    np.testing.assert_allclose(table.frame.to_numpy(float), particle_table(mask, split=split).to_numpy(float))
    expected = ndimage.label(mask)[0] if split == "none" else split_mask(mask)
    assert np.array_equal(numbers, expected)


@settings(max_examples=60, deadline=None)
@given(MASKS, HEIGHTS, st.integers(4, 12))
def test_components_are_joined_over_any_number_of_windows(
    mask: np.ndarray, heights: list[int], window_rows: int
) -> None:
    table, numbers = streamed(mask, heights, "none", window_rows)
    assert np.array_equal(numbers, ndimage.label(mask)[0])
    np.testing.assert_allclose(table.frame.to_numpy(float), particle_table(mask).to_numpy(float), atol=1e-9)


def test_a_spiral_is_one_particle_in_any_bands() -> None:
    """Arms that meet only far below are joined across many windows."""
    mask = np.zeros((60, 61), bool)
    mask[:, ::2] = True
    mask[-1] = True
    mask[5:40, 30] = False
    table, _ = streamed(mask, [7] * 9, "none", 8)
    assert len(table.frame) == 2 and table.frame.area_px.sum() == mask.sum()
    assert list(table.frame.area_px) == list(particle_table(mask).area_px)


@pytest.mark.parametrize("seed", range(6))
def test_heaps_are_split_alike_in_bands_and_nearly_alike_window_by_window(seed: int) -> None:
    mask = drawn(seed)
    whole = split_mask(mask)
    table, numbers = streamed(mask, [9] * 15, "watershed")
    assert np.array_equal(numbers, whole) and len(table.frame) == whole.max()
    windowed, numbers = streamed(mask, [9] * 15, "watershed", 64)
    assert np.array_equal(numbers > 0, mask)
    assert abs(len(windowed.frame) - whole.max()) <= 1
    same = sum(np.array_equal(numbers == numbers[whole == n][0], whole == n) for n in range(1, whole.max() + 1))
    assert same >= 0.8 * whole.max()


@pytest.mark.parametrize("split", ["none", "watershed"])
def test_the_table_is_that_of_its_labels(split: str) -> None:
    mask = drawn(3)
    grey = np.random.default_rng(0).integers(0, 256, mask.shape, dtype=np.uint8)
    table, numbers = streamed(mask, [11] * 12, split, grey=grey)
    assert list(table.frame.label) == list(range(1, numbers.max() + 1))
    for row in table.frame.itertuples():
        mine = numbers == row.label
        assert row.area_px == mine.sum() and row.mean_grey == pytest.approx(grey[mine].mean())
        alone = particle_table(mine).iloc[0]
        for name in ("perimeter_px", "feret_max_px", "feret_min_px", "solidity", "holes", "orientation_deg"):
            assert getattr(row, name) == pytest.approx(alone[name]), name
        assert row.touches_border == (mine[0].any() or mine[-1].any() or mine[:, 0].any() or mine[:, -1].any())


def test_a_particle_higher_than_a_window_keeps_its_number() -> None:
    mask = np.zeros((200, 20), bool)
    mask[3:197, 5:15] = True
    table, _ = streamed(mask, [10] * 20, "watershed", 24)
    assert list(table.frame.area_px) == [1940] and table.frame.feret_min_px[0] == 10


def test_bands_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="40 columns"):
        list(InstanceStream(40, "none").add(np.ones((3, 41))))
