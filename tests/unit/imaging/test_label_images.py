"""Particle numbers as TIFF: the numbers of the table, in 16 bits unless there are too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from sage_ray.errors import UserError
from sage_ray.imaging.label_images import LabelScratch, write_labels


@pytest.mark.parametrize(("shape", "bands"), [((300, 530), [7, 256, 37]), ((5, 3), [5]), ((512, 256), [512])])
def test_labels_are_written_as_numbers(tmp_path: Path, shape: tuple[int, int], bands: list[int]) -> None:
    labels = np.random.default_rng(0).integers(0, 6, shape)
    numbers = np.array([0, 3, 0, 2, 1, 4])
    seen: list[np.ndarray] = []
    with LabelScratch(shape[1]) as scratch:
        for stop, height in zip(np.cumsum(bands), bands, strict=True):
            scratch.add(labels[stop - height : stop])
        path = write_labels(tmp_path / "a.tif", shape, scratch, numbers, seen.append)
    written = tifffile.imread(path)
    assert written.dtype == np.uint16 and np.array_equal(written, numbers[labels])
    assert np.array_equal(np.concatenate(seen), written)


@pytest.mark.parametrize(("count", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_more_particles_than_16_bits_hold_take_32(tmp_path: Path, count: int, dtype: type) -> None:
    labels = np.arange(count + 1).reshape(1, -1)
    with LabelScratch(count + 1) as scratch:
        scratch.add(labels)
        path = write_labels(tmp_path / "a.tif", labels.shape, scratch, np.arange(count + 1))
    written = tifffile.imread(path)
    assert written.dtype == dtype and np.array_equal(written.reshape(labels.shape), labels)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with LabelScratch(2) as scratch:
        scratch.add(np.ones((2, 2), int))
        with pytest.raises(UserError, match="cannot write"):
            write_labels(tmp_path / "no" / "a.tif", (2, 2), scratch, np.arange(2))
