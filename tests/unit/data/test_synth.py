"""Drawn micrographs: reproducible, exact masks, particles of the promised size, too hard for a grey threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from sage_ray.data.check import check
from sage_ray.data.micrograph import Particles, outline_field
from sage_ray.data.synth import DrawnSource, write_dataset
from sage_ray.errors import UserError


def otsu_dice(image: np.ndarray, mask: np.ndarray) -> float:
    found = image > threshold_otsu(image)
    return 2 * float((found & (mask > 0)).sum()) / float(found.sum() + mask.sum())


@pytest.mark.parametrize("size", [16, 33, 64, 128, 256])
def test_every_image_has_particles_and_background(size: int) -> None:
    source = DrawnSource(40 if size < 256 else 8, size, 7)
    for index in range(source.num):
        image, labels = pair = source.draw(index)
        assert image.shape == labels.shape == (size, size)
        assert image.dtype == np.uint8 and labels.dtype == np.uint16 and pair.mask.dtype == np.uint8
        assert set(np.unique(pair.mask)) == {0, 1}
        np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
        assert image.std() > 5, "a flat picture"


@pytest.mark.parametrize("size", [64, 128])
def test_particles_are_large_enough_to_be_matched(size: int) -> None:
    """Objects of at least 15 pixels in every image; whole particles are some 6 to 20 pixels across."""
    diameters = []
    for index in range(40):
        labels = DrawnSource(40, size, 1).draw(index).labels
        areas = np.bincount(labels.ravel())[1:]
        assert (areas >= 15).sum() >= 3
        edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        whole = np.setdiff1d(np.arange(1, len(areas) + 1), edge)
        diameters += list(2 * np.sqrt(areas[whole - 1] / np.pi))
    low, middle, high = np.quantile(diameters, (0.05, 0.5, 0.95))
    assert low > 4 and 6 < middle < 14 and high < 22


def test_masks_are_exact_without_distortion() -> None:
    """A round particle without roughness or drift is the disc of its radius, to the pixel centre."""

    class Still(np.random.Generator):
        def normal(self, loc: float = 0.0, scale: float = 1.0, size: object = None) -> object:
            return loc if size is None else np.full(size, loc)

        def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> object:
            return low if size is None else np.full(size, low)

    shape = Particles(np.array([[20.3, 17.8]]), np.array([7.4]), 0.0, 0, 1.0, 0.5, 0.0)
    labels, cover, relief = outline_field(Still(np.random.PCG64(0)), 40, shape)
    rows, columns = np.mgrid[:40, :40]
    np.testing.assert_array_equal(labels > 0, np.hypot(rows - 20.3, columns - 17.8) < 7.4)
    assert cover.max() == 1 and (cover[labels > 0] > 0.5).all() and (cover[labels == 0] <= 0.5).all()
    assert relief[20, 24] > relief[20, 18], "the edge is brighter than the middle"


def test_a_threshold_fails_on_many_images_and_works_on_others() -> None:
    scores = [otsu_dice(*_image_and_mask(index)) for index in range(80)]
    assert 0.45 < np.mean(scores) < 0.8
    assert np.quantile(scores, 0.2) < 0.6 and np.quantile(scores, 0.75) > 0.85


def _image_and_mask(index: int) -> tuple[np.ndarray, np.ndarray]:
    pair = DrawnSource(80, 96, 11).draw(index)
    return pair.image, pair.mask


def test_masks_fit_their_images() -> None:
    """Inside and outside of the outline differ in brightness along it, also where no threshold separates them."""
    contrasts = []
    for index in range(30):
        pair = DrawnSource(30, 128, 4).draw(index)
        inside = pair.mask.astype(bool)
        near = np.zeros_like(inside)
        for axis, step in ((0, 2), (0, -2), (1, 2), (1, -2)):
            near |= np.roll(inside, step, axis)
        contrasts.append(abs(pair.image[inside].mean() - pair.image[near & ~inside].mean()) / pair.image.std())
    assert np.quantile(contrasts, 0.1) > 0.3 and np.median(contrasts) > 1


def test_written_folders_pass_the_check(tmp_path: Path) -> None:
    binary = check(write_dataset(tmp_path / "binary", 5, 64, 0))
    labelled = check(write_dataset(tmp_path / "labelled", 5, 64, 0, instance_maps=True))
    assert binary.ok and labelled.ok and len(binary.facts) == 5
    source = DrawnSource(5, 64, 0)
    assert [fact.objects for fact in labelled.facts] == [int(source.draw(i).labels.max()) for i in range(5)]
    assert [fact.coverage for fact in labelled.facts] == [fact.coverage for fact in binary.facts]
    assert check("synthetic://ordered?num=5&size=64").as_dict()["objects"] == labelled.as_dict()["objects"]


def test_writing_again_is_allowed_but_not_among_other_pictures(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "out", 3, 32, 0)
    write_dataset(tmp_path / "out", 3, 32, 1)
    with pytest.raises(UserError, match="folder holds other pictures: .*ordered_00002.png"):
        write_dataset(tmp_path / "out", 2, 32, 0)
    with pytest.raises(UserError, match="folder holds other pictures"):
        write_dataset(tmp_path / "out", 3, 32, 0, instance_maps=True)
    (folder / "images" / "mine.tif").write_bytes(b"x")
    with pytest.raises(UserError, match="mine.tif"):
        write_dataset(tmp_path / "out", 3, 32, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a writable folder"):
        write_dataset(tmp_path / "file", 3, 32, 1)
